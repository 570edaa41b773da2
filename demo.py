"""The whole method on embedded data: four trainings, their evaluations, a table and report.html.

    python demo.py            # at most 10 minutes on two CPU cores
    python demo.py --quick    # about a minute; shows that everything runs, its numbers mean little
    python demo.py --seed 1   # other scenes, other weights

It draws two domains of street scenes in the folder layouts of GTA5 and Cityscapes and then runs the
project's scripts as a user would, printing every command. Stage I and the source-only baseline start from
the same weights, trained on the source for a while: they stand in for ImageNet's, which the small network
used here does not have.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset import build_dataset
from experiments.recipes import (
    BALANCED,
    COMMON,
    FULL,
    NO_TARGET,
    QUICK,
    RATE1,
    SIZES,
    STAGE1,
    STAGE2,
    START,
    THRESHOLD,
    Plan,
)
from report.comparison_report import Results
from report.demo_report import write_demo_report
from report.example_pictures import color_map
from report.result_folder import read_result
from synthetic import make_synthetic_data
from utils.errors import UserError, run_script
from utils.metrics import format_iou_columns
from utils.pictures import save_overview
from utils.tool_options import demo_args

HERE = Path(__file__).resolve().parent
EXAMPLES = 4  # target images in the report
DOMAIN_EXAMPLES = 3  # pairs of source and target images in the report


@dataclass(frozen=True)
class Method:
    """A row of the table: its title, the folder of its training, and the last snapshot in it."""

    title: str
    folder: str
    iterations: int

    @property
    def snapshot(self) -> str:
        return f"snapshots/{self.folder}/GTA5_{self.iterations}.pth"


def main() -> None:
    """Draw the data, run the scripts, show what came out."""
    args = demo_args()
    plan = QUICK if args.quick else FULL
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"Drawing {plan.train_images} source, {plan.train_images} target and {plan.val_images} test images")
    make_synthetic_data(
        args.out / "data",
        source_images=plan.train_images,
        target_images=plan.train_images,
        val_images=plan.val_images,
        seed=args.seed,
    )
    methods = train_and_evaluate(args.out, plan, args.seed)
    results = {m.title: read_result(args.out / f"result/cityscapes{m.folder}") for m in methods}
    print(comparison(results))
    minutes = (time.monotonic() - started) / 60
    make_report(args, results, [args.out / f"snapshots/{m.folder}" for m in methods], minutes)
    print(f"\n{minutes:.1f} minutes. The page with pictures and curves: {args.out / 'report.html'}")


def train_and_evaluate(out: Path, plan: Plan, seed: int) -> list[Method]:
    """Run the scripts in the order of the README; what does not wait for each other, side by side."""
    common = f"{COMMON} --random-seed {seed} --log-every {plan.log_every}"
    source = f"{common} {SIZES.stage1} {BALANCED}"
    target = f"{common} {SIZES.stage2} {STAGE2} --threshold {THRESHOLD}"
    start = Method("Common start", "start", plan.start)
    source_only = Method("Source only", "source_only", plan.stage1)
    stage1 = Method("Stage I (MRNet)", "stage1", plan.stage1)
    conventional = Method("Stage II, conventional", "stage2_conventional", plan.stage2)
    rectified = Method("Stage II, rectified", "stage2_rectified", plan.stage2)

    def train(script: str, method: Method, before: str, flags: str) -> str:
        steps = f"--num-steps {method.iterations} --save-pred-every {method.iterations}"
        return f"{script} --snapshot-dir snapshots/{method.folder} --restore-from {before} {flags} {steps}"

    def predict(script: str, method: Method) -> str:
        return f"{script} --restore-from {method.snapshot} --input-size {SIZES.target}"

    scripts_in(out, train("train_ms.py", start, "none", f"{source} {START}"))
    scripts_in(
        out,
        train("train_ms.py", stage1, start.snapshot, f"{source} {STAGE1} {RATE1}"),
        train("train_ms.py", source_only, start.snapshot, f"{source} {NO_TARGET} {RATE1}"),
    )
    generate = predict("generate_plabel_cityscapes.py", stage1)
    scripts_in(out, f"{generate} --threshold {THRESHOLD}")
    scripts_in(
        out,
        train("train_ft.py", rectified, stage1.snapshot, target),
        train("train_ft.py", conventional, stage1.snapshot, f"{target} --conventional"),
    )
    methods = [source_only, stage1, conventional, rectified]
    for pair in (methods[:2], methods[2:]):
        scripts_in(out, *(predict("evaluate_cityscapes.py", method) for method in pair))
    return methods


def scripts_in(folder: Path, *commands: str) -> None:
    """Run scripts of the project side by side in `folder`, which holds `data`, as from shells.

    The first one's output appears as it comes, the others' when they are done. Each gets half of the cores:
    threads that wait for a core that is taken cost more than they bring.
    """
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    running = []
    for command in commands:
        print(f"\n$ python {command}", flush=True)
        script, *flags = shlex.split(command)
        output = subprocess.PIPE if running else None
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), *flags],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            stdout=output,
            text=True,
        )
        running.append((command, process))
    for command, process in running:
        printed, _ = process.communicate()
        if printed:
            print(f"\nMeanwhile: python {command}\n{printed}", end="", flush=True)
    for command, process in running:
        if process.returncode:
            script = command.partition(" ")[0]
            raise UserError(f"{script} left with status {process.returncode}; its message stands above")


def comparison(results: Results) -> str:
    """IoU of each class and mIoU of all methods in percent, side by side."""
    columns = {
        title: [np.nan if value is None else value for value in result.metrics["iou"].values()]
        for title, result in results.items()
    }
    names = list(next(iter(results.values())).colors)
    return "\n" + format_iou_columns(names, columns, {"mIoU": range(len(names))})


def make_report(args: argparse.Namespace, results: Results, snapshots: list[Path], minutes: float) -> None:
    """report.html and overview.png in the demo's folder."""
    target = build_dataset("cityscapes", args.out / "data/Cityscapes/data", split="val")
    source = build_dataset("gta5", args.out / "data/GTA5")
    names = spread(target.names, EXAMPLES)
    rows = [
        [
            Image.open(target.image_path(name)),
            *(color_map(ids, target.colors) for ids in (target.train_ids(name), *predicted(results, name))),
        ]
        for name in names
    ]
    save_overview(args.out / "overview.png", ["target image", "label", *results], rows)
    intro = (
        "A small network of the papers' structure, trained from random weights on drawn street scenes: "
        f"{len(source)} labelled images of one world, as many without labels of another, tested on "
        f"{len(target)} images of the other. One seed ({args.seed}), {minutes:.1f} minutes in all. The "
        "numbers tell how the steps of the method compare here; they do not compare with the papers'.\n\n"
        f"$ python demo.py --seed {args.seed}{' --quick' if args.quick else ''}"
    )
    write_demo_report(
        args.out / "report.html",
        title="Source only, Stage I, Stage II on embedded data",
        intro=intro,
        results=results,
        snapshots=snapshots,
        target=target,
        names=names,
        source=source,
        source_names=spread(source.names, DOMAIN_EXAMPLES),
    )


def predicted(results: Results, name: str) -> list[np.ndarray]:
    """What every method predicts for an image, train ids."""
    return [result.prediction(name) for result in results.values()]


def spread(names: list[str], count: int) -> list[str]:
    """`count` names spread evenly over the list."""
    return [names[index * len(names) // count] for index in range(min(count, len(names)))]


if __name__ == "__main__":
    run_script(main)
