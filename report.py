"""Write the page of an evaluation, or of several side by side, from the folders that they wrote.

    python report.py result/stage2                              # result/stage2/report.html
    python report.py result/source_only result/stage1 result/stage2 --titles "Source only,Stage I,Stage II"

Nothing is predicted again. The data must be where the evaluation found them, or in --data-dir.
"""

import logging
from pathlib import Path

from dataset import build_dataset
from dataset.domains import BUILT_IN
from engine.run_log import log_to_terminal
from report.bootstrap import miou_gains
from report.comparison import check_comparable, gain_lines
from report.pages import write_comparison, write_evaluation
from report.result_folder import read_result
from utils.errors import UserError, run_script
from utils.tool_options import report_args

log = logging.getLogger(__name__)


def main() -> None:
    """Read the results, then write one page."""
    args = report_args()
    log_to_terminal()
    results = [read_result(folder) for folder in args.results]
    evaluated = results[0].metrics["data"]
    target = args.target or evaluated["target"]
    if target not in BUILT_IN and not Path(target).exists():
        raise UserError(f"{args.results[0]}: evaluated on {target}, which is not here; name it with --target")
    data = build_dataset(
        target, args.data_dir or evaluated["data_dir"], split=evaluated["set"], colors=results[0].colors
    )
    if len(results) == 1:
        write_evaluation(args.save, results[0], data, args.images)
    else:
        titled = dict(zip(args.titles, results, strict=True))
        check_comparable(titled)
        gains = miou_gains(titled)
        log.info("%s", "\n".join(gain_lines(titled, gains)))
        write_comparison(args.save, titled, gains, data, args.images, args.names)
    log.info("The page: %s", args.save)


if __name__ == "__main__":
    run_script(main)
