"""The data of a training: built from its flags, checked before the first step, and shown."""

import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence

from dataset import Adaptation, MixedDataset, SegmentationDataset, adapt, build_dataset, find_domain
from dataset.base import unused_split
from dataset.self_training import read_class_balance
from dataset.survey import Survey, check_learnable, check_pair, check_scorable, doubts, has_class
from dataset.transforms import Size
from engine.restore import log_stretched
from engine.result_folders import check_apart, check_pseudo_labels, hash_of_data, refuse_unfinished
from engine.snapshots import result_flags
from utils.errors import UserError
from utils.metrics import format_class_shares

PSEUDO_LABEL_FLAGS = ("threshold", "pseudo_dir", "portion", "lr_weight_ent")  # of Stage II
log = logging.getLogger(__name__)


class TrainingData:
    """The data sets of a training.

    Attributes:
        pair: the domains with their classes and colours.
        labelled: the source, in Stage II the target with its pseudo labels, or parts of both.
        target: the images that are adapted to.
        validation: None without --eval-every.
        target_has_labels: whether the loss on the target's labels is logged; known after `check`.
        hashes: of each, as in `engine.resume.DATA`, by which a resume notices other data.

    Raises:
        UserError, DataError: folders, lists, descriptions or classes do not fit.
    """

    def __init__(self, args: Namespace, pseudo_labels: bool):
        self.args, self.pseudo_labels = args, pseudo_labels
        self.pair = adapt(find_domain(args.source), find_domain(args.target))
        check_classes(self.pair, args)
        self.labelled, self.target, self.validation = build_datasets(self.pair, args, pseudo_labels)
        log_unused_splits(self.target, self.validation, args)
        mixed = isinstance(self.labelled, MixedDataset)
        self.parts = (self.labelled.target, self.labelled.source) if mixed else (self.labelled,)
        self.target_has_labels, self.hashes, self.surveys = False, [], []

    def check(self) -> None:
        """Check every header, and that the labels hold classes.

        Raises:
            UserError, DataError: a file is missing or unreadable, or there is nothing to learn.
        """
        first = self.parts[0]
        if self.pseudo_labels:
            if result_flags(first.pseudo_folder).get("label_ids"):
                problem = "holds label ids, no train ids; make pseudo labels without --label-ids"
                raise UserError(f"{first.pseudo_folder}: {problem}")
            refuse_unfinished(first.pseudo_folder)
        self.labelled.check(labels_required=True)
        if self.pseudo_labels:
            check_pseudo_labels(first)
        for data in (first, self.target, *self.parts[1:]):
            check_apart("--snapshot-dir", self.args.snapshot_dir, data, labels=False)
            self.hashes.append(hash_of_data(data))
        self.surveys = [check_learnable(part) for part in self.parts]
        self.target_has_labels = self.target.check(labels_required=False) and has_class(self.target)
        if self.validation:
            self.validation.check(labels_required=True)
            check_scorable(self.validation)
        for data, size, flag in self._working_sizes():
            log_stretched(data, size, flag)

    def show(self) -> None:
        """Log the images of both streams and the classes of the checked labels."""
        log.info("Labelled: %d images in %s", len(self.labelled), self.labelled.image_folder)
        for part, survey in zip(self.parts, self.surveys, strict=True):
            show_classes(part, survey)
        labels = "labels only for the logged val loss" if self.target_has_labels else "no labels"
        log.info("Target:   %d images in %s (%s)", len(self.target), self.target.image_folder, labels)

    def _working_sizes(self) -> Iterator[tuple[SegmentationDataset, Size, str]]:
        """Each set of images, the size that it is resized to, and the flag that chooses this size."""
        args = self.args
        if len(self.parts) > 1:
            yield self.parts[1], args.input_size_source, "--input-size-source"
        yield self.parts[0], args.input_size, "--input-size"
        yield self.target, args.input_size_target, "--input-size-target"


def check_classes(pair: Adaptation, args: Namespace) -> None:
    """Refuse too few classes and domains that share none; warn of target classes that are ignored.

    Raises:
        UserError: the network could not learn the classes of the labels.
    """
    if not pair.colors:
        raise UserError(f"--source {args.source}: has no classes; describe its labels in dataset.yaml")
    if args.num_classes < len(pair.colors):
        raise UserError(f"--num-classes {args.num_classes}: the labels have {len(pair.colors)}; give that")
    check_pair(pair)
    if pair.unknown_classes:
        log.warning("Target classes that the source lacks are ignored: %s.", ", ".join(pair.unknown_classes))


def show_classes(labelled: SegmentationDataset, survey: Survey) -> None:
    """One row per class of labels to learn from, so that a class without a label is seen; doubts warn."""
    sample = "" if survey.counted == len(labelled) else f"a sample of {survey.counted} of "
    log.info("Classes in %s%d labels:", sample, len(labelled))
    classes = tuple(labelled.colors)
    log.info("%s", class_table(classes, survey))
    advice = "; a lower --threshold labels more" if labelled.pseudo_folder else ""
    for doubt in doubts(survey, classes, labelled.table):
        log.warning("Warning: %s%s.", doubt, advice)


def class_table(classes: Sequence[str], survey: Survey) -> str:
    """Pixels and images of each class, and its share of all pixels; those of unknown ids have no label."""
    total = int(survey.pixels.sum()) + sum(pixels for pixels, *_ in survey.unknown.values())
    images = {"images": list(map(str, survey.images_with))}
    return format_class_shares(classes, survey.pixels[: len(classes)].tolist(), total, images)


def log_unused_splits(
    target: SegmentationDataset, validation: SegmentationDataset | None, args: Namespace
) -> None:
    """Log where --set and --eval-set do not choose the target's images: all are trained and validated on."""
    lines = [unused_split(target, args.given.get("set"))]
    if validation:
        flag = args.given.get("eval_set") or (None if args.eval_list else "--eval-set")
        lines.append(unused_split(validation, flag))
    for line in filter(None, lines):
        log.warning("%s.", line)


def build_datasets(
    pair: Adaptation, args: Namespace, pseudo_labels: bool
) -> tuple[SegmentationDataset, SegmentationDataset, SegmentationDataset | None]:
    """The data sets of the labelled and the target stream, and of the validation if there is one."""
    common = dict(crop_size=args.crop_size, ignore_label=args.ignore_label, colors=pair.colors)
    labelled = build_labelled(pair, args, pseudo_labels, common)
    target = build_dataset(
        args.target,
        args.data_dir_target,
        list_file=args.data_list_target,
        split=args.set,
        labelled_stream=False,
        input_size=args.input_size_target,
        random_scale=args.random_scale,
        random_mirror=args.random_mirror,
        autoaugment=args.autoaug_target,
        **common,
    )
    if not args.eval_every:
        return labelled, target, None
    validation = build_dataset(
        args.target, args.data_dir_target, split=args.eval_set, list_file=args.eval_list, **common
    )
    return labelled, target, validation


def build_labelled(
    pair: Adaptation, args: Namespace, pseudo_labels: bool, common: dict
) -> SegmentationDataset | MixedDataset:
    """The data set of the labelled stream: the source, the target with pseudo labels, or parts of both."""
    flags = vars(args)  # Stage I has only some of them
    common = common | dict(split=args.set, labelled_stream=True, autoaugment=args.autoaug)
    common |= {name: flags[name] for name in ("label_scales", "mine_chance") if name in flags}
    labelled = build_dataset(
        args.target if pseudo_labels else args.source,
        args.data_dir,
        list_file=args.data_list,
        input_size=args.input_size,
        pseudo=pseudo_labels,
        source=args.source,
        **{name: flags[name] for name in PSEUDO_LABEL_FLAGS if name in flags},
        **common,
    )
    if flags.get("portion"):
        balance = read_class_balance(labelled.pseudo_folder, args.portion, args.lr_weight_ent)
        pixels = zip(pair.classes, balance["labelled_pixels"], strict=False)
        if absent := [name for name, count in pixels if not count]:
            log.warning("No pseudo label is %s: only source images can show them.", ", ".join(absent))
        if len(balance["thresholds"]) != args.num_classes:
            problem = f"labels of {len(balance['thresholds'])} classes, not {args.num_classes}"
            raise UserError(f"{labelled.pseudo_folder}: {problem}; make them with the --restore-from here")
    if not flags.get("source_portion"):
        return labelled
    source = build_dataset(args.source, args.source_dir, input_size=args.input_size_source, **common)
    return MixedDataset(labelled, source, args.source_portion, args.random_seed)
