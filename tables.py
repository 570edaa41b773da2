"""Reproduce the papers' tables: train, evaluate, print beside the published numbers.

    python tables.py --list                                     # the tables and their rows
    python tables.py mrnet-2 --synthetic                        # small network on synthetic data: minutes
    python tables.py rectifying-2 rectifying-9 --dry-run        # the commands, for a shell or a cluster
    python tables.py rectifying-2 --seeds 0,1,2 --gpu-ids 0,1   # published flags, ./data: days on GPUs

Every number comes from the project's scripts, and everything they write is below --out. Run the same command
again to continue after an interruption. The tables are data in experiments/tables.py.
"""

from utils.script import run_script

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from experiments import runner, tabulate
from experiments.recipes import Planner, Published, Recipe, Synthetic
from experiments.tables import CLASS_COUNTS, TABLES, Cell, Table
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.flag_types import OneLineParser, gpu_ids, positive, seeds
from utils.idle_flags import log_idle_flags

PROJECT = Path(__file__).resolve().parent  # the commands run here


# fmt: off
def tables_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = OneLineParser("Reproduce tables of the papers.", "NAME [NAME ...] [flags]")
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"tables: {' '.join(TABLES)}")
    add("--list", action="store_true", help="list the tables")
    add("--synthetic", "--embedded", action="store_true", help="small network, synthetic data, as in demo.py")
    length = parser.add_mutually_exclusive_group().add_argument
    length("--quick", action="store_true", help="with --synthetic: a minute or two per table, to try it out")
    length("--short", action="store_true", help="with --synthetic: the images and iterations of demo.py")
    add("--seeds", type=seeds, default="0", help="seeds to run; several give mean and 95 %% t-interval")
    add("--out", type=Path, default="tables", help="output folder")
    add("--dry-run", action="store_true", help="print the commands; run and write nothing")
    add("--jobs", type=positive, default=1, help="scripts to run in parallel; they share the cores")
    add("--gpu-ids", type=gpu_ids, help="GPUs of every training, e.g. 0,1 (default: the published command's)")
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in TABLES]
    if unknown or not (args.names or args.list):
        problem = f"no table is named {unknown[0]!r}" if unknown else "name a table"
        parser.error(f"{problem}; there are {', '.join(TABLES)}")
    if (args.quick or args.short) and not args.synthetic:
        parser.error("--quick and --short shorten --synthetic; give it too")
    args.names = list(dict.fromkeys(args.names))
    return args
# fmt: on


def main() -> None:
    """List the tables, print the commands, or run them and print the tables."""
    args = tables_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    log_idle_flags(args)
    if args.list:
        for table in TABLES.values():
            print(f"{table.name:<14}{table.title}")
            print(" " * 14 + " | ".join(row.title for row in table.rows))
        return
    out = Path(os.path.abspath(args.out))
    out = out.relative_to(PROJECT) if out.is_relative_to(PROJECT) else out  # shortens the commands
    os.chdir(PROJECT)
    tables = [TABLES[name] for name in args.names]
    name = "synthetic" + ("-quick" if args.quick else "-short" if args.short else "")
    recipe = Synthetic(name) if args.synthetic else Published()
    gpu_ids = args.gpu_ids and ",".join(map(str, args.gpu_ids))
    planners = [Planner(recipe, out, seed, gpu_ids) for seed in args.seeds]
    cells = dict.fromkeys(cell for table in tables for cell in table.cells)
    jobs = {cell: [planner.evaluate(cell) for planner in planners] for cell in cells}
    in_turn = [job for of_seed in zip(*jobs.values(), strict=True) for job in of_seed]  # seed by seed
    if args.dry_run:
        print("\n".join([f"# run in {PROJECT}", *(job.line for job in runner.unfinished(in_turn))]))
        return
    runner.run(in_turn, args.jobs)
    results = {cell: [read_metrics(job.result) for job in of_seeds] for cell, of_seeds in jobs.items()}
    for table in tables:
        show(table, results, out / recipe.name, recipe, args)


def read_metrics(path: Path) -> dict:
    """The metrics.json of an evaluation."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to evaluate again") from error


def show(
    table: Table, results: dict[Cell, list[dict]], folder: Path, recipe: Recipe, args: argparse.Namespace
) -> None:
    """Print a table and write it as text and CSV."""
    numbers = tabulate.numbers_of(table, results)
    seeds = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
    notes = [f"Measured: {recipe.description}; {CLASS_COUNTS[table.benchmark]}; {seeds}."]
    if order := tabulate.order_line(numbers):
        notes.insert(0, order)
    if not all(cell.comparable for cell in table.cells):
        notes.append(f"{tabulate.NOT_COMPARABLE} of another network or training: not to be compared.")
    if args.synthetic:
        notes.append("Compare only the order with the published numbers: data and network differ.")
    text = tabulate.as_text(table, numbers, notes)
    for suffix, content in ((".txt", text), (".csv", tabulate.as_csv(table, numbers))):
        path = folder / f"{table.name}{suffix}"
        atomic_write(path, lambda tmp, content=content: tmp.write_text(content, encoding="utf-8"))
    print(f"\n{text}\nWritten to {folder / table.name}.txt and .csv")


if __name__ == "__main__":
    run_script(main)
