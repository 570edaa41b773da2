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
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dataset import SegmentationDataset, build_dataset
from dataset.embedded import make_embedded_data
from dataset.labels import palette
from utils.errors import UserError, run_script
from utils.pictures import save_overview
from utils.report import Example, Run, write_report

HERE = Path(__file__).resolve().parent
SOURCE_SIZE, TARGET_SIZE, CROP = "256,144", "256,128", "192,96"
EXAMPLES = 4  # target images in the report
DOMAIN_EXAMPLES = 3  # pairs of source and target images in the report

NETWORK = "--arch mini --norm-style gn --use-se"
TRAINING = f"{NETWORK} --crop-size {CROP} --input-size-target {TARGET_SIZE}"
TRAINING += " --class-balance --often-balance --max-value 3 --lambda-seg 0.5"
SOURCE_ONLY = "--lambda-adv-target1 0 --lambda-adv-target2 0"
STAGE1 = "--lambda-adv-target1 0.0002 --lambda-adv-target2 0.001 --lambda-kl-target 2 --reg-start 0"
RATE = "--batch-size 2 --learning-rate 1e-3"
STAGE2 = f"--input-size {TARGET_SIZE} {SOURCE_ONLY} --train_bn"


@dataclass(frozen=True)
class Plan:
    """How much is drawn and trained: images, and iterations of each training."""

    train_images: int
    val_images: int
    start: int
    stage1: int
    stage2: int
    log_every: int


FULL = Plan(train_images=240, val_images=60, start=700, stage1=300, stage2=300, log_every=10)
QUICK = Plan(train_images=16, val_images=4, start=24, stage1=6, stage2=6, log_every=2)


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
    args = parse_args()
    plan = QUICK if args.quick else FULL
    started = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"Drawing {plan.train_images} source, {plan.train_images} target and {plan.val_images} test images")
    make_embedded_data(
        args.out / "data",
        source_images=plan.train_images,
        target_images=plan.train_images,
        val_images=plan.val_images,
        seed=args.seed,
    )
    methods = train_and_evaluate(args.out, plan, args.seed)
    runs = [
        Run(m.title, args.out / f"result/cityscapes{m.folder}", args.out / f"snapshots/{m.folder}")
        for m in methods
    ]
    print(comparison(runs))
    minutes = (time.monotonic() - started) / 60
    make_report(args, runs, minutes)
    print(f"\n{minutes:.1f} minutes. The page with pictures and curves: {args.out / 'report.html'}")


def parse_args() -> argparse.Namespace:
    """Flags of the demo."""
    parser = argparse.ArgumentParser(description="The whole method on embedded data.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything it writes")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and of the trainings")
    parser.add_argument("--quick", action="store_true", help="about a minute; the numbers mean little")
    return parser.parse_args()


def train_and_evaluate(out: Path, plan: Plan, seed: int) -> list[Method]:
    """Run the scripts one after another, as the README's commands do."""
    common = f"{TRAINING} --random-seed {seed} --log-every {plan.log_every}"
    source = f"{common} --input-size {SOURCE_SIZE}"
    start = Method("Common start", "start", plan.start)
    source_only = Method("Source only", "source_only", plan.stage1)
    stage1 = Method("Stage I (MRNet)", "stage1", plan.stage1)
    conventional = Method("Stage II, conventional", "stage2_conventional", plan.stage2)
    rectified = Method("Stage II, rectified", "stage2_rectified", plan.stage2)

    def train(script: str, method: Method, flags: str, before: str) -> None:
        rates = f"--num-steps {method.iterations} --save-pred-every {method.iterations}"
        script_in(
            out, f"{script} --snapshot-dir snapshots/{method.folder} --restore-from {before} {flags} {rates}"
        )

    train(
        "train_ms.py",
        start,
        f"{source} {SOURCE_ONLY} --batch-size 4 --learning-rate 1e-2 --warm-up 50",
        "none",
    )
    train("train_ms.py", source_only, f"{source} {SOURCE_ONLY} {RATE}", start.snapshot)
    train("train_ms.py", stage1, f"{source} {STAGE1} {RATE}", start.snapshot)
    script_in(
        out, f"generate_plabel_cityscapes.py --restore-from {stage1.snapshot} --input-size {TARGET_SIZE}"
    )
    fine_tune = f"{common} {STAGE2} {RATE}"
    train("train_ft.py", conventional, f"{fine_tune} --conventional", stage1.snapshot)
    train("train_ft.py", rectified, fine_tune, stage1.snapshot)
    methods = [source_only, stage1, conventional, rectified]
    for method in methods:
        script_in(out, f"evaluate_cityscapes.py --restore-from {method.snapshot} --input-size {TARGET_SIZE}")
    return methods


def script_in(folder: Path, command: str) -> None:
    """Run a script of the project in `folder`, which holds `data`, as from a shell."""
    print(f"\n$ python {command}", flush=True)
    script, *flags = shlex.split(command)
    status = subprocess.run([sys.executable, str(HERE / script), *flags], cwd=folder).returncode
    if status:
        raise UserError(f"{script} left with status {status}; its own message stands above")


def comparison(runs: list[Run]) -> str:
    """IoU of each class and mIoU of all runs in percent, side by side."""
    results = [json.loads((run.result / "metrics.json").read_text()) for run in runs]
    width = max(len(name) for name in results[0]["iou"])
    columns = [max(len(run.title), 6) for run in runs]

    def row(name: str, values: list[float | None]) -> str:
        cells = ["absent" if v is None else f"{100 * v:.2f}" for v in values]
        return "  ".join([f"{name:<{width}}", *(f"{c:>{w}}" for c, w in zip(cells, columns, strict=True))])

    head = "  ".join([" " * width, *(f"{run.title:>{w}}" for run, w in zip(runs, columns, strict=True))])
    rows = [row(name, [result["iou"][name] for result in results]) for name in results[0]["iou"]]
    return "\n".join(["", head, *rows, "-" * len(head), row("mIoU", [r["miou"] for r in results])])


def make_report(args: argparse.Namespace, runs: list[Run], minutes: float) -> None:
    """report.html and overview.png in the demo's folder."""
    target = build_dataset("cityscapes", args.out / "data/Cityscapes/data", split="val")
    source = build_dataset("gta5", args.out / "data/GTA5")
    examples = [
        Example(str(Path(name).with_suffix("")), target.image_path(name), colored_label(target, name))
        for name in spread(target.names, EXAMPLES)
    ]
    pairs = [(source.image_path(n), colored_label(source, n)) for n in spread(source.names, DOMAIN_EXAMPLES)]
    titles = ["target image", "label", *(run.title for run in runs)]
    rows = [
        [
            Image.open(e.image),
            e.label_color,
            *(Image.open(run.result / f"{e.name}_color.png") for run in runs),
        ]
        for e in examples
    ]
    save_overview(args.out / "overview.png", titles, rows)
    intro = (
        "A small network of the papers' structure, trained from random weights on drawn street scenes: "
        f"{len(source)} labelled images of one world, as many without labels of another, tested on "
        f"{len(target)} images of the other. One seed ({args.seed}), {minutes:.1f} minutes in all. The "
        "numbers tell how the steps of the method compare here; they do not compare with the papers'.\n\n"
        f"$ python demo.py --seed {args.seed}{' --quick' if args.quick else ''}"
    )
    write_report(
        args.out / "report.html",
        title="Source only, Stage I, Stage II on embedded data",
        intro=intro,
        runs=runs,
        examples=examples,
        colors=target.colors,
        source_examples=pairs,
    )


def spread(names: list[str], count: int) -> list[str]:
    """`count` names spread evenly over the list."""
    return [names[index * len(names) // count] for index in range(min(count, len(names)))]


def colored_label(data: SegmentationDataset, name: str) -> Image.Image:
    """The label of an image in its classes' colours."""
    return Image.fromarray(palette(data.colors)[data.train_ids(name)])


if __name__ == "__main__":
    run_script(main)
