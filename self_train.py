"""Rounds of self-training (CBST, CRST): label the target, train on it and on some source images, evaluate.

    python self_train.py --restore-from ./snapshots/source/GTA5_25000.pth --mr-weight-kld 0.1    # MRKLD
    python self_train.py --restore-from ./snapshots/source/GTA5_25000.pth --lr-weight-ent 0.25   # LRENT

Starts from any snapshot of this project; every round goes on from the one before. The defaults are published
for GTA5 -> Cityscapes; --generate, --train and --evaluate hold further flags of the three scripts, which win.
Run the same command again to continue after an interruption. The scripts write below --out, with their output
in --out/logs.
"""

from utils.script import run_script

import json
import logging
from argparse import Namespace
from pathlib import Path

from engine.restore import read_snapshot, recognise
from engine.run_log import log_to_terminal
from experiments.rounds import Rounds
from experiments.runner import run
from utils import flag_types as types
from utils.flag_types import OneLineParser
from utils.metrics import format_table
from utils.options import add_domain_flags

log = logging.getLogger(__name__)


# fmt: off
def self_train_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = OneLineParser("Rounds of self-training with class-balanced pseudo labels (CBST, CRST).")
    add = parser.group("rounds")
    add("--restore-from", types.text, None, "first snapshot, with opts.yaml beside it", metavar="FILE",
        required=True)
    add("--out", Path, "./self_training", "folder of everything that is written")
    add("--rounds", types.not_negative, 3, "number of rounds; 0 evaluates the start")
    add("--epochs", types.positive, 2, "passes over the mixed images in a round")
    add("--portion", types.fraction, 0.2, "share of each class that is labelled in the first round")
    add("--portion-step", types.fraction, 0.05, "how much larger it is in each further round")
    add("--portion-max", types.fraction, 0.5, "but no larger than this")
    add("--source-portion", types.fraction, 0.03, "share of the source's images in the first round")
    add("--source-portion-step", types.fraction, 0.0025, "how much larger it is in each further round")
    add("--source-portion-max", types.fraction, 0.06, "but no larger than this")
    add("--mr-weight-kld", types.not_negative_float, 0.0, "MRKLD; published: 0.1")
    add("--lr-weight-ent", types.not_negative_float, 0.0, "LRENT; published: 0.25")
    add("--mine-chance", types.fraction, 0.8, "probability of a crop around a rare class")
    add("--best-images", types.not_negative, 0, "train on the N images that the start labels best; 0: all")
    add("--batch-size", types.positive, 2, "images per step")
    add("--random-seed", types.seed, 1234, "of the first round; 1 more in each further one")
    add = parser.group("data and scripts")
    add_domain_flags(add, source=None, target=None)
    add("--data-dir", Path, None, "root of the target data (default: its data set's)")
    add("--source-dir", Path, None, "root of the source data (default: its data set's)")
    add("--data-list", Path, None, "the target's training images, one name per line")
    add("--gpu-ids", types.gpu_ids, "0", "GPUs to train on; the first one predicts")
    for script in ("generate", "train", "evaluate"):
        add(f"--{script}", str, "", f"further flags of the script that {script}s, in quotes", metavar="FLAGS")
    args = parser.parse_args(argv)
    if not args.portion:
        parser.error("--portion 0 labels nothing; raise it")
    for name in ("portion", "source_portion"):
        first, last, flag = getattr(args, name), getattr(args, f"{name}_max"), f"--{name.replace('_', '-')}"
        if first > last:
            parser.error(f"{flag} {first:g} is above {flag}-max {last:g}; raise the latter")
    return args
# fmt: on


def main() -> None:
    """Run what is unfinished and print the mIoU of every round."""
    args = self_train_args()
    log_to_terminal()
    snapshot, options = read_snapshot(args.restore_from)
    pair = recognise(snapshot, options, args.source, args.target)
    evaluations = Rounds(args, pair, options).evaluations()
    run(evaluations.values())
    rows = [["", "mIoU"]]
    for title, job in evaluations.items():
        miou = json.loads(job.result.read_text(encoding="utf-8"))["miou"]
        rows.append([title, "absent" if miou is None else f"{100 * miou:.2f}"])
    log.info("%s", format_table(rows))


if __name__ == "__main__":
    run_script(main)
