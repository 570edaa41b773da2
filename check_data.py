"""Check every image and label of a data set before training on it, and print a table of its classes.

    python check_data.py gta5
    python check_data.py campus.yaml --set val          # your own data, see docs/data.md
    python check_data.py photos --source campus.yaml    # a target, in the classes of its source

Exits with status 2 if something would stop a training: files that cannot be read, labels of another size,
missing labels, ids or colours without a class, no class to learn.
"""

from utils.script import run_script

import logging
from argparse import Namespace
from pathlib import Path

from dataset import Adaptation, SegmentationDataset, adapt, build_dataset, find_domain
from dataset.base import unused_split
from dataset.domains import BUILT_IN
from dataset.survey import Survey, check_pair, doubts, lack_of_classes, survey_images
from dataset.transforms import stretched
from engine.run_log import log_to_terminal, progress
from engine.training_data import class_table
from utils.device import count_workers
from utils.errors import UserError
from utils.flag_types import OneLineParser, any_domain, source, split, workers
from utils.options import OWN_DATA

SHOWN = 5  # sizes, names and files listed; the others are only counted
log = logging.getLogger(__name__)


# fmt: off
def check_data_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = OneLineParser("Read every image and label of a data set and print a summary.", "DOMAIN [flags]")
    add = parser.add_argument
    add("dataset", type=any_domain, metavar="DOMAIN", help=f"{', '.join(BUILT_IN)}, {OWN_DATA}")
    add("--source", type=source, help="count a target in the classes of this source (default: in its own)")
    add("--data-dir", type=Path, help="root of the data (default: the data set's)")
    add("--data-list", type=Path, help="images, one name per line; without it the folder is scanned")
    add("--set", type=split, default="train", help="split of the data, where it has splits")
    add("--num-workers", type=workers, help="decoding processes (default: by cores)")
    return parser.parse_args(argv)
# fmt: on


def main() -> None:
    """Read every image, print the table, and fail where a training would."""
    log_to_terminal()
    args = check_data_args()
    domain = find_domain(args.dataset)
    pair = adapt(find_domain(args.source) if args.source else domain, domain)
    if pair.classes:  # pictures alone have none
        check_pair(pair)
    data = build_dataset(
        args.dataset, args.data_dir, split=args.set, list_file=args.data_list, colors=pair.colors
    )
    survey = Survey()
    for image in progress(survey_images(data, count_workers(args.num_workers)), len(data)):
        survey.add(image)
    notes = [f"note    {line}" for line in advice(pair, data, survey, args)]
    table = ["", class_table(pair.classes, survey), ""] if survey.counted else []
    log.info("%s", "\n".join([*overview(data, survey), *table, *notes]))
    if problems := faults(pair, data, survey):
        log.info("%s", "\n".join(f"FAULT   {line}" for line in problems))
        raise UserError(f"{args.dataset}: {len(problems)} problem(s) listed above; fix them first")
    log.info("No fault found.")


def overview(data: SegmentationDataset, survey: Survey) -> list[str]:
    """Lines with the numbers of images, sizes and labels."""
    sizes = [f"{width}x{height} ({count})" for (width, height), count in survey.sizes.most_common(SHOWN)]
    labels = str(survey.labels)
    if not survey.labels:
        expected = data.label_path(data.names[0])
        example = f", such as {expected}" if expected else ""
        labels = f"none{example}: fine for a target, not for a source"
    return [
        f"images  {survey.images} of {data.image_folder}",
        f"sizes   {shortened(sizes, len(survey.sizes))}",
        f"labels  {labels}",
    ]


def advice(pair: Adaptation, data: SegmentationDataset, survey: Survey, args: Namespace) -> list[str]:
    """What does not stop a training but is worth knowing."""
    lines = [unused_split(data, args.given.get("set"))]
    if pair.unknown_classes:
        lines.append(f"the source lacks {', '.join(pair.unknown_classes)}: ignored here")
    if survey.occurring(pair.classes):
        fault = None if is_target(pair) else lack_of_classes(survey, pair.classes)
        lines += [doubt for doubt in doubts(survey, pair.classes, data.table) if doubt != fault]
    if line := stretched(survey.sizes, pair.target.target_size):
        flags = "--input-size-target to train, --input-size to predict"
        lines.append(f"as a target {line} (size in the description, or {flags})")
    return list(filter(None, lines))


def faults(pair: Adaptation, data: SegmentationDataset, survey: Survey) -> list[str]:
    """One line per problem that stops a training."""
    lines = survey.faults[:SHOWN]
    if len(survey.faults) > SHOWN:
        lines.append(f"and {len(survey.faults) - SHOWN} more files")
    if survey.labels and survey.missing:
        names = shortened(survey.missing[:SHOWN], len(survey.missing))
        lines.append(f"{len(survey.missing)} images have no label: {names}")
    for label_id, (pixels, images, first) in sorted(survey.unknown.items())[: 4 * SHOWN]:
        where = f"{pixels} pixels of {images} images, first {data.label_path(first)}"
        lines.append(f"id {label_id} has no class and is not ignored: {where}")
    lack = lack_of_classes(survey, pair.classes) if survey.counted else None
    if lack and not lines and not (is_target(pair) and survey.occurring(pair.classes)):
        lines.append(f"{lack}: nothing to learn or to score")
    return lines


def is_target(pair: Adaptation) -> bool:
    """Whether the set is counted in the classes of another, with --source."""
    return pair.source is not pair.target


def shortened(shown: list[str], count: int) -> str:
    """The first items, and how many more there are."""
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


if __name__ == "__main__":
    run_script(main)
