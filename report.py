"""Write the page of an evaluation, or of several side by side, from the folders that they wrote.

    python report.py result/stage2                              # result/stage2/report.html
    python report.py result/source_only result/stage1 result/stage2 --titles "Source only,Stage I,Stage II"

Nothing is predicted again. The data must be where the evaluation found them, or where --data-dir says.
"""

import logging
from argparse import ArgumentTypeError

from dataset import build_dataset
from engine.run_log import log_to_terminal
from report.comparison_report import write_comparison
from report.evaluation_report import write_evaluation_report
from report.result_folder import read_result
from utils import flag_types
from utils.errors import UserError, run_script
from utils.tool_options import report_args

log = logging.getLogger(__name__)


def main() -> None:
    """Read the results, then write one page."""
    args = report_args()
    log_to_terminal()
    results = [read_result(folder) for folder in args.results]
    evaluated = results[0].metrics["data"]
    try:
        target = args.target or flag_types.target(evaluated["target"])
    except ArgumentTypeError as error:
        raise UserError(f"{args.results[0]}: evaluated with --target {error}; give --target") from error
    data = build_dataset(
        target,
        args.data_dir or evaluated["data_dir"],
        split=evaluated["set"],
        colors=results[0].colors,
    )
    if len(results) == 1:
        write_evaluation_report(args.save, results[0], data, args.images)
    else:
        titled = dict(zip(args.titles, results, strict=True))
        write_comparison(args.save, titled, data, args.images, args.names)
    log.info("The page: %s", args.save)


if __name__ == "__main__":
    run_script(main)
