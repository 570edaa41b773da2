"""The whole method on synthetic data: four trainings, their evaluations, a table and report.html.

    python demo.py            # about two minutes on two CPU cores
    python demo.py --full     # about five; more images and iterations, as in tables.py --synthetic
    python demo.py --quick    # half a minute; a smoke test, its numbers mean little
    python demo.py --seed 1   # other scenes, other weights

It draws two domains of street scenes in the folder layouts of GTA5 and Cityscapes and then runs the
project's scripts as a user would, printing every command. Stage I and the source-only baseline start from
the same weights, trained on the source for a while: they stand in for ImageNet's, which the small network
used here does not have.
"""

from utils.script import run_script

import multiprocessing
import os
import runpy
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # noqa: F401  (every optimizer needs it, and its import takes a second)

from dataset import build_dataset
from experiments import recipes
from experiments.recipes import SIZES, THRESHOLD, Plan
from report.comparison import Gain, Results, gain_lines, miou_gains
from report.curves import charts
from report.pages import write_comparison
from report.pictures import Picture, read_example, source_pictures
from report.result_folder import read_result
from synthetic import make_synthetic_data
from utils.errors import UserError
from utils.flag_types import OneLineParser, seed
from utils.metrics import format_iou_columns

HERE = Path(__file__).resolve().parent
EXAMPLES = 4  # target images in the report
DOMAIN_EXAMPLES = 3  # pairs of source and target images in the report
# Forked scripts find torch imported: for the ten of them that saves half a minute of CPU time.
FORK = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


# fmt: off
def demo_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = OneLineParser("Run the whole method on synthetic data.")
    add = parser.add_argument
    add("--out", type=Path, default="demo", help="output folder")
    add("--seed", type=seed, default=0, help="seed of the scenes and of the trainings")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="half a minute; the numbers mean little")
    length.add_argument("--full", action="store_true", help="five minutes; the iterations of tables.py")
    return parser.parse_args(argv)
# fmt: on


METHODS = {  # rows of the table -> folder of the training
    "Source only": "source_only",
    "Stage I (MRNet)": "stage1",
    "Stage II, conventional": "stage2_conventional",
    "Stage II, rectified": "stage2_rectified",
}


def main() -> None:
    """Draw the data, run the scripts, show what came out."""
    args = demo_args()
    plan = recipes.QUICK if args.quick else recipes.FULL if args.full else recipes.DEMO
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
    steps = scripts_to_run(plan, args.seed)
    for number, (what, *commands) in enumerate(steps, start=1):
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        print(f"\n[{minutes}:{seconds:02}] Step {number} of {len(steps)}: {what}")
        run_scripts(args.out, commands)
    results = {title: read_result(args.out / f"result/cityscapes{name}") for title, name in METHODS.items()}
    curves = {title: charts(args.out / f"snapshots/{name}/log.jsonl") for title, name in METHODS.items()}
    gains = miou_gains(results)
    print(comparison(results, gains))
    minutes = (time.monotonic() - started) / 60
    write_page(args, results, gains, curves, minutes)
    print(f"\n{minutes:.1f} minutes. The page with pictures and curves: {args.out / 'report.html'}")


def scripts_to_run(plan: Plan, seed: int) -> list[tuple[str, ...]]:
    """The steps: what each does, and its commands, which do not depend on each other."""
    common = f"{recipes.COMMON} --random-seed {seed} --log-every {plan.log_every}"
    source = f"{common} {SIZES.stage1} {recipes.BALANCED}"
    target = f"{common} {SIZES.stage2} {recipes.STAGE2} --threshold {THRESHOLD}"
    iterations = {"start": plan.start, "source_only": plan.stage1, "stage1": plan.stage1}

    def snapshot(folder: str) -> str:
        return f"snapshots/{folder}/GTA5_{iterations.get(folder, plan.stage2)}.pth"

    def train(script: str, folder: str, before: str, flags: str) -> str:
        count = iterations.get(folder, plan.stage2)
        steps = f"--num-steps {count} --save-pred-every {count}"
        return f"{script} --snapshot-dir snapshots/{folder} --restore-from {before} {flags} {steps}"

    def predict(script: str, folder: str) -> str:
        return f"{script} --restore-from {snapshot(folder)} --input-size {SIZES.target}"

    start, stage1 = snapshot("start"), snapshot("stage1")
    stage1_flags = f"{source} {recipes.STAGE1} {recipes.RATE1} {plan.rate1}"
    source_only_flags = f"{source} {recipes.NO_TARGET} {recipes.RATE1} {plan.rate1}"
    evaluations = [predict("evaluate_cityscapes.py", folder) for folder in METHODS.values()]
    return [
        (
            f"the common start, {plan.start} iterations on the source, in place of ImageNet's weights",
            train("train_ms.py", "start", "none", f"{source} {recipes.START}"),
        ),
        (
            f"Stage I, {plan.stage1} iterations that adapt it to the target",
            train("train_ms.py", "stage1", start, stage1_flags),
        ),
        (
            "the target's pseudo labels; and source only, as many iterations as Stage I without the target",
            f"{predict('generate_plabel_cityscapes.py', 'stage1')} --threshold {THRESHOLD}",
            train("train_ms.py", "source_only", start, source_only_flags),
        ),
        (
            f"Stage II, {plan.stage2} iterations on the pseudo labels, rectified and conventional",
            train("train_ft.py", "stage2_rectified", stage1, target),
            train("train_ft.py", "stage2_conventional", stage1, f"{target} --conventional"),
        ),
        (f"source only and Stage I, evaluated on {plan.val_images} images", *evaluations[:2]),
        ("Stage II, conventional and rectified, evaluated on the same images", *evaluations[2:]),
    ]


def run_scripts(folder: Path, commands: Sequence[str]) -> None:
    """Run scripts of the project side by side in `folder`, which holds `data`, as from shells.

    The first one's output is streamed, the others' follows when they are done. They share the cores:
    oversubscribed cores slow all of them down.
    """
    threads = max(1, torch.get_num_threads() // len(commands))
    running = []
    for number, command in enumerate(commands):
        print(f"\n$ python {command}", flush=True)
        output = folder.resolve() / f"output{number}.txt" if number else None
        process = FORK.Process(target=_run_script, args=(command, folder, threads, output))
        process.start()
        running.append((command, process, output))
    for command, process, output in running:
        process.join()
        if output:
            print(f"\nMeanwhile: python {command}\n{output.read_text(encoding='utf-8')}", end="", flush=True)
            output.unlink()
    for command, process, _ in running:
        if process.exitcode:
            script = command.partition(" ")[0]
            raise UserError(f"{script} exited with status {process.exitcode}; see its message above")


def _run_script(command: str, folder: Path, threads: int, output: Path | None) -> None:
    """What `python` does with a command, in a process that has already imported torch."""
    script, *flags = shlex.split(command)
    sys.argv = [str(HERE / script), *flags]
    os.chdir(folder)
    torch.set_num_threads(threads)
    with (
        open(output, "w", encoding="utf-8") if output else nullcontext(sys.stdout) as stdout,
        redirect_stdout(stdout),
    ):
        runpy.run_path(sys.argv[0], run_name="__main__")


def comparison(results: Results, gains: Mapping[str, Gain]) -> str:
    """IoU per class and mIoU of all methods in percent, side by side, and the gains in mIoU."""
    columns = {title: np.array([*r.metrics["iou"].values()], float) for title, r in results.items()}
    names = list(next(iter(results.values())).colors)
    table = format_iou_columns(names, columns, {"mIoU": range(len(names))})
    return "\n".join(["", table, "", *gain_lines(results, gains)])


def write_page(
    args: Namespace,
    results: Results,
    gains: Mapping[str, Gain],
    curves: Mapping[str, Sequence[Picture]],
    minutes: float,
) -> None:
    """report.html in the demo's folder."""
    target = build_dataset("cityscapes", args.out / "data/Cityscapes/data", split="val")
    source = build_dataset("gta5", args.out / "data/GTA5")
    names, source_names = spread(target.names, EXAMPLES), spread(source.names, DOMAIN_EXAMPLES)
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
        command=f"python demo.py --seed {args.seed}"
        + (" --quick" if args.quick else " --full" if args.full else ""),
    )


def spread(names: Sequence[str], count: int) -> list[str]:
    """`count` names spread evenly over the list."""
    return [names[index * len(names) // count] for index in range(min(count, len(names)))]


if __name__ == "__main__":
    run_script(main)
