"""Flags of the scripts that look at data and results, and of those that run the others."""

import argparse
from collections.abc import Collection
from pathlib import Path

from dataset.domains import BUILT_IN
from utils import flag_types
from utils.atomic import resolve_path
from utils.parser import OneLineParser
from utils.prediction_options import REPORT_IMAGES


def report_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `report.py`."""
    parser = OneLineParser("Write the page of an evaluation, or of several side by side.")
    parser.usage = "%(prog)s RESULT [RESULT ...] [flags]"
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULT", help="folder that evaluate_cityscapes.py wrote")
    add(
        "--titles",
        type=flag_types.words,
        help="of the results, separated by commas (default: the folders' names)",
    )
    add(
        "--images",
        type=flag_types.not_negative,
        default=REPORT_IMAGES,
        help="worst and best images; of several results, "
        "those where the last one gains and loses most over the first",
    )
    add("--names", nargs="+", default=(), metavar="NAME", help="compare these images, named as in images.csv")
    add("--save", type=Path, help="the page (default: report.html in the folder, or ./comparison.html)")
    add("--data-dir", type=Path, help="root of the data (default: the first evaluation's)")
    add(
        "--target",
        type=flag_types.target,
        metavar="DOMAIN",
        help="the data set (default: the first evaluation's)",
    )
    args = parser.parse_intermixed_args(argv)
    several = len(args.results) > 1
    args.titles = args.titles.split(",") if args.titles else _folder_titles(args.results)
    if len(args.titles) != len(args.results):
        parser.error(f"--titles: {len(args.titles)} for {len(args.results)} results; give one each")
    if len(set(args.titles)) < len(args.titles):
        parser.error("--titles: two are the same; give each result a title and name it once")
    if args.names and not several:
        parser.error("--names chooses images to compare; name several results")
    args.save = args.save or (Path("comparison.html") if several else args.results[0] / "report.html")
    return args


def _folder_titles(folders: list[Path]) -> list[str]:
    """The folders' names, or the whole paths where two have one name."""
    names = [resolve_path(folder).name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def check_data_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `check_data.py`."""
    parser = OneLineParser("Look at every image and label of a data set and print what it holds.")
    parser.usage = "%(prog)s DOMAIN [flags]"
    parser.add_argument(
        "dataset",
        type=flag_types.any_domain,
        metavar="DOMAIN",
        help=f"{', '.join(BUILT_IN)}, or a description file or folder of your own data (docs/own-data.md)",
    )
    parser.add_argument(
        "--source",
        type=flag_types.source,
        metavar="DOMAIN",
        help="count a target in the classes of this source (default: in its own)",
    )
    parser.add_argument("--data-dir", type=Path, help="root of the data (default: the data set's own)")
    parser.add_argument("--data-list", type=Path, help="names, one a line; without it the folder is scanned")
    parser.add_argument(
        "--set", type=flag_types.split, default="train", help="split of the data, where it has splits"
    )
    parser.add_argument(
        "--num-workers", type=flag_types.workers, help="decoding processes (default: by the cores)"
    )
    return parser.parse_args(argv)


def tables_args(tables: Collection[str], argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `tables.py`; `tables` are the names that it knows."""
    parser = OneLineParser("Measure tables of the papers.")
    parser.usage = "%(prog)s NAME [NAME ...] [flags]"
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"tables: {' '.join(tables)}")
    add("--list", action="store_true", help="print what there is")
    add(
        "--synthetic",
        "--embedded",
        action="store_true",
        help="small network on synthetic data, as in demo.py",
    )
    add("--quick", action="store_true", help="with --synthetic: a minute or two per table, to try it out")
    add(
        "--seeds",
        type=flag_types.seeds,
        default="0",
        help="one run per seed; several give the mean and its 95 %% t-interval",
    )
    add("--out", type=Path, default="tables", help="folder of everything it writes")
    add("--dry-run", action="store_true", help="print the commands; run and write nothing")
    add(
        "--jobs",
        type=flag_types.positive,
        default=1,
        help="scripts side by side; each gets its share of the cores",
    )
    add(
        "--gpu-ids",
        type=flag_types.gpu_ids,
        help="GPUs of every training, such as 0,1 (default: the published command's)",
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in tables]
    if unknown or not (args.names or args.list):
        problem = f"no table is named {unknown[0]!r}" if unknown else "name a table"
        parser.error(f"{problem}; there are {', '.join(tables)}")
    if args.quick and not args.synthetic:
        parser.error("--quick shortens --synthetic; give both")
    args.names = list(dict.fromkeys(args.names))
    return args


def demo_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `demo.py`."""
    parser = OneLineParser("The whole method on embedded data.")
    add = parser.add_argument
    add("--out", type=Path, default="demo", help="folder of everything it writes")
    add("--seed", type=flag_types.seed, default=0, help="of the scenes and of the trainings")
    add("--quick", action="store_true", help="about a minute; the numbers mean little")
    return parser.parse_args(argv)
