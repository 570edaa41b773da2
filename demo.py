"""The whole method on synthetic data: four trainings, their evaluations, a table and report.html.

    python demo.py            # at most 10 minutes on two CPU cores
    python demo.py --quick    # about a minute; a smoke test, its numbers mean little
    python demo.py --seed 1   # other scenes, other weights

It draws two domains of street scenes in the folder layouts of GTA5 and Cityscapes and then runs the
project's scripts as a user would, printing every command. Stage I and the source-only baseline start from
the same weights, trained on the source for a while: they stand in for ImageNet's, which the small network
used here does not have.
"""

from utils.script import run_script

import os
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset import build_dataset
from experiments import recipes
from experiments.recipes import SIZES, THRESHOLD, Plan
from report.comparison import Gain, Results, gain_lines, miou_gains
from report.curves import charts
from report.pages import write_comparison
from report.pictures import Picture, color_map, read_example, source_pictures
from report.result_folder import read_result
from synthetic import make_synthetic_data
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.flag_types import OneLineParser, seed
from utils.metrics import format_iou_columns
from utils.pictures import overview

HERE = Path(__file__).resolve().parent
EXAMPLES = 4  # target images in the report
DOMAIN_EXAMPLES = 3  # pairs of source and target images in the report


# fmt: off
def demo_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = OneLineParser("Run the whole method on synthetic data.")
    add = parser.add_argument
    add("--out", type=Path, default="demo", help="output folder")
    add("--seed", type=seed, default=0, help="seed of the scenes and of the trainings")
    add("--quick", action="store_true", help="about a minute; the numbers mean little")
    return parser.parse_args(argv)
# fmt: on


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
    plan = recipes.QUICK if args.quick else recipes.FULL
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
    curves = {m.title: charts(args.out / f"snapshots/{m.folder}/log.jsonl") for m in methods}
    gains = miou_gains(results)
    print(comparison(results, gains))
    minutes = (time.monotonic() - started) / 60
    write_overview_and_page(args, results, gains, curves, minutes)
    print(f"\n{minutes:.1f} minutes. The page with pictures and curves: {args.out / 'report.html'}")


def train_and_evaluate(out: Path, plan: Plan, seed: int) -> list[Method]:
    """Run the scripts in the order of the README, independent ones side by side."""
    common = f"{recipes.COMMON} --random-seed {seed} --log-every {plan.log_every}"
    source = f"{common} {SIZES.stage1} {recipes.BALANCED}"
    target = f"{common} {SIZES.stage2} {recipes.STAGE2} --threshold {THRESHOLD}"
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

    scripts_in(out, train("train_ms.py", start, "none", f"{source} {recipes.START}"))
    scripts_in(
        out,
        train("train_ms.py", stage1, start.snapshot, f"{source} {recipes.STAGE1} {recipes.RATE1}"),
        train("train_ms.py", source_only, start.snapshot, f"{source} {recipes.NO_TARGET} {recipes.RATE1}"),
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

    The first one's output is streamed, the others' follows when they are done. Each gets half of the cores:
    oversubscribed cores slow all of them down.
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
            raise UserError(f"{script} exited with status {process.returncode}; see its message above")


def comparison(results: Results, gains: Mapping[str, Gain]) -> str:
    """IoU per class and mIoU of all methods in percent, side by side, and the gains in mIoU."""
    columns = {title: np.array([*r.metrics["iou"].values()], float) for title, r in results.items()}
    names = list(next(iter(results.values())).colors)
    table = format_iou_columns(names, columns, {"mIoU": range(len(names))})
    return "\n".join(["", table, "", *gain_lines(results, gains)])


def write_overview_and_page(
    args: Namespace,
    results: Results,
    gains: Mapping[str, Gain],
    curves: Mapping[str, Sequence[Picture]],
    minutes: float,
) -> None:
    """overview.png and report.html in the demo's folder."""
    target = build_dataset("cityscapes", args.out / "data/Cityscapes/data", split="val")
    source = build_dataset("gta5", args.out / "data/GTA5")
    names, source_names = spread(target.names, EXAMPLES), spread(source.names, DOMAIN_EXAMPLES)
    rows = []
    for name in names:
        predictions = [result.prediction(name) for result in results.values()]
        maps = [color_map(ids, target.colors) for ids in (target.train_ids(name), *predictions)]
        rows.append([Image.open(target.image_path(name)), *maps])
    sheet = overview(["target image", "label", *results], rows)
    atomic_write(args.out / "overview.png", lambda tmp: sheet.save(tmp, "PNG"))
    intro = (
        "A small network of the papers' structure, trained from random weights on drawn street scenes: "
        f"{len(source)} labelled images of one world, as many without labels of another, tested on "
        f"{len(target)} images of the other. One seed ({args.seed}), {minutes:.1f} minutes in all. The "
        "numbers show how the steps of the method compare here; they do not compare with the papers'."
    )
    domains = {"Source": (source, source_names), "Target": (target, names[: len(source_names)])}
    write_comparison(
        args.out / "report.html",
        results,
        gains,
        target,
        {"Examples": names},
        template="demo.html.j2",
        curves=curves,
        domains={
            title: [source_pictures(read_example(data, name), data.colors) for name in shown]
            for title, (data, shown) in domains.items()
        },
        title="Source only, Stage I, Stage II on synthetic data",
        intro=intro,
        command=f"python demo.py --seed {args.seed}{' --quick' if args.quick else ''}",
    )


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` names spread evenly over the list."""
    return [names[index * len(names) // count] for index in range(min(count, len(names)))]


if __name__ == "__main__":
    run_script(main)
