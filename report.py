"""Write the page of an evaluation, or of several side by side, from the folders that they wrote.

    python report.py result/stage2                              # result/stage2/report.html
    python report.py result/source_only result/stage1 result/stage2 --titles "Source only,Stage I,Stage II"

Nothing is predicted again. The data must be where the evaluation found them, or in --data-dir.
"""

from utils.script import run_script

import logging
from argparse import Namespace
from pathlib import Path

from dataset import build_dataset
from dataset.domains import BUILT_IN
from engine.run_log import log_to_terminal
from report.comparison import gain_lines, miou_gains, most_changed
from report.pages import write_comparison, write_evaluation
from report.result_folder import Result, read_result, well_formed
from utils.atomic import check_kind, resolve_path
from utils.errors import UserError
from utils.flag_types import OneLineParser, not_negative, target, text
from utils.idle_flags import log_idle_flags

log = logging.getLogger(__name__)


# fmt: off
def report_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = OneLineParser("Write a page of one or several evaluations.", usage="RESULT [RESULT ...] [flags]")
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULT", help="folder that evaluate_cityscapes.py wrote")
    add("--titles", type=text, help="titles of the results, separated by commas (default: their folders')")
    add("--images", type=not_negative, default=4, help="number of worst and of best images; with several "
        "results, of those where the last one loses and gains most over the first")
    add("--names", nargs="+", default=(), metavar="NAME", help="compare these images, named as in images.csv")
    add("--save", type=Path, help="the page (default: report.html in the folder, or ./comparison.html)")
    add("--data-dir", type=Path, help="root of the data (default: the first evaluation's)")
    add("--target", type=target, help="the data set (default: the first evaluation's)")
    args = parser.parse_intermixed_args(argv)
    several = len(args.results) > 1
    args.titles = args.titles.split(",") if args.titles else [resolve_path(f).name for f in args.results]
    if len(args.titles) != len(args.results):
        parser.error(f"--titles: {len(args.titles)} for {len(args.results)} results; give one for each")
    if len(set(args.titles)) < len(args.titles):
        parser.error("--titles: two are the same, by default the names of the folders; give each its own")
    if not several and (args.names or "titles" in args.given):
        parser.error("--titles and --names are of results side by side; name several")
    args.save = args.save or (Path("comparison.html") if several else args.results[0] / "report.html")
    return args
# fmt: on


def main() -> None:
    """Read the results, then write one page."""
    args = report_args()
    log_to_terminal()
    log_idle_flags(args)
    check_kind("--save", args.save, ".html", ".htm")
    results = [read_result(folder) for folder in args.results]
    with well_formed(*args.results):
        write_page(args, results)
    log.info("The page: %s", args.save)


def write_page(args: Namespace, results: list[Result]) -> None:
    """Write the page of the result, or of all results side by side."""
    evaluated = results[0].metrics["data"]
    name = args.target or evaluated["target"]
    if name not in BUILT_IN and not Path(name).exists():
        raise UserError(f"{args.results[0]}: evaluated on {name}, which is not here; name it with --target")
    data = build_dataset(
        name, args.data_dir or evaluated["data_dir"], split=evaluated["set"], colors=results[0].colors
    )
    if len(results) == 1:
        write_evaluation(args.save, results[0], data, args.images)
        return
    titled = dict(zip(args.titles, results, strict=True))
    gains = miou_gains(titled)
    if unknown := [image for image in args.names if image not in results[0].images]:
        raise UserError(f"--names {unknown[0]}: not among the images in {args.results[0]}/images.csv")
    groups = {"Images": args.names} if args.names else most_changed(titled, args.images)
    log.info("%s", "\n".join(gain_lines(titled, gains)))
    write_comparison(args.save, titled, gains, data, groups)


if __name__ == "__main__":
    run_script(main)
