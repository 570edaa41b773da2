"""The papers' tables, measured: what a table compares is trained, evaluated and printed beside the published.

    python tables.py --list                                     # the tables and what each shows
    python tables.py mrnet-2 --embedded                         # small network, drawn data: minutes on a CPU
    python tables.py rectifying-2 rectifying-9 --dry-run        # the commands, for a shell
    python tables.py rectifying-2 --seeds 0,1,2 --gpu-ids 0,1   # published flags, ./data: days on GPUs

Every number comes from the project's scripts, each run once and recorded under --out; an invocation that was
stopped goes on where it was when it is given again. The tables are data in experiments/tables.py.
"""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path

from experiments import runner, tabulate
from experiments.jobs import RESULT_FILE, Planner
from experiments.recipes import Recipe, embedded_recipe, published_recipe
from experiments.tables import CLASS_COUNTS, TABLES, Table
from utils.atomic import atomic_write
from utils.errors import UserError, run_script
from utils.tool_options import tables_args

HERE = Path(__file__).resolve().parent  # where the commands run


def main() -> None:
    """List, show the commands, or run them and print the tables."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    if args.list:
        print(
            "\n".join(f"{t.name:<14}{t.title}: {t.shows}\n{' ' * 14}{row_titles(t)}" for t in TABLES.values())
        )
        return
    tables = [TABLES[name] for name in args.names]
    recipe = embedded_recipe(args.quick) if args.embedded else published_recipe()
    planners = [Planner(recipe, args.out, seed, args.gpu_ids) for seed in args.seeds]
    evaluations = {
        cell: [planner.evaluate(cell) for planner in planners]
        for table in tables
        for row in table.rows_in(args.embedded)
        for cell in row.cells
    }
    # A whole seed after another: the first one's numbers are there early.
    jobs = [of_seeds[index] for index in range(len(planners)) for of_seeds in evaluations.values()]
    if args.dry_run:
        print("\n".join([f"# to be run in {HERE}", *runner.dry_run(jobs, HERE)]))
        return
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup makes it
            signal.signal(number, signal.default_int_handler)  # stops the running scripts too, as Ctrl-C does
    runner.run(jobs, HERE, HERE / args.out, args.jobs)
    results = {cell: [read_result(job) for job in of_seeds] for cell, of_seeds in evaluations.items()}
    for table in tables:
        show(table, results, recipe, args)


def parse_args() -> argparse.Namespace:
    """Flags of the driver; `out` relative to the project where it lies in it, so that commands stay short."""
    args = tables_args(TABLES)
    args.gpu_ids = args.gpu_ids and ",".join(map(str, args.gpu_ids))
    args.out = Path(os.path.abspath(args.out))
    args.out = args.out.relative_to(HERE) if args.out.is_relative_to(HERE) else args.out
    return args


def row_titles(table: Table) -> str:
    """The rows, for --list."""
    return " | ".join(f"{row.title}{' (embedded only)' if row.embedded_only else ''}" for row in table.rows)


def read_result(job: runner.Job) -> dict:
    """What an evaluation wrote."""
    path = HERE / job.folder / RESULT_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        record = HERE / job.record
        raise UserError(f"{path}: cannot read ({error}); remove {record} to evaluate again") from error


def show(table: Table, results: dict, recipe: Recipe, args: argparse.Namespace) -> None:
    """Print a table and write it as text, Markdown and CSV."""
    numbers = tabulate.numbers_of(table, results, args.embedded)
    seed_list = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
    notes = [tabulate.order_line(numbers)]
    notes += [f"Measured: {recipe.words}; {CLASS_COUNTS[table.benchmark]}; {seed_list}."]
    if args.embedded:
        notes += ["Measured and published do not compare in size, only in ordering: data and network differ."]
    notes = [note for note in notes if note]
    folder = HERE / args.out / recipe.setting
    text = tabulate.as_text(table, numbers, notes)
    print(f"\n{text}\nWritten to {folder / table.name}.txt, .md and .csv")
    csv, markdown = tabulate.as_csv(table, numbers), tabulate.as_markdown(table, numbers, notes)
    for suffix, content in ((".txt", text), (".md", markdown), (".csv", csv)):
        path = folder / f"{table.name}{suffix}"
        atomic_write(path, lambda aside, content=content: aside.write_text(content, encoding="utf-8"))


if __name__ == "__main__":
    run_script(main)
