"""The content of a data set, counted, and the rule of whether it holds anything to learn or to score.

`check_data.py` decodes everything. A training and an evaluation read labels before they start until they have
met two classes, so that data without classes end in one line and not in a network or a number.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from dataset.base import CHECKING_THREADS, SegmentationDataset
from dataset.domains import Adaptation
from dataset.images import DataError, check_image, check_label, decode_image
from dataset.labels import IDS, LabelTable
from dataset.sampling import load

TRAIN_IDS = 256
SAMPLE = 200  # labels counted at the start of a training, for the shares of the classes
MIN_CLASSES = 2  # the probability of a single class is always 1
FEW_LABELS = 0.05  # warn if a smaller share of the pixels has a class


@dataclass
class Survey:
    """What the images of a data set and their labels hold.

    Pixels are counted by train id, 255 (or the ignore label) for no class. `labels`: images with a label
    file; `counted`: those whose pixels could be counted. `faults`: one line per file that would stop a
    training. `unknown`: label id missing from the table -> its pixels, its images, and the first of them.
    """

    images: int = 0
    labels: int = 0
    counted: int = 0
    sizes: Counter = field(default_factory=Counter)  # (width, height) -> images
    missing: list[str] = field(default_factory=list)  # images without a label
    faults: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    unknown: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)  # that occur in the label files

    def add(self, other: "Survey") -> None:
        """Add the counts of further images."""
        for name in ("images", "labels", "counted", "sizes", "missing", "faults", "pixels", "images_with"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ids |= other.ids
        for label_id, (pixels, images, name) in other.unknown.items():
            before, images_before, first = self.unknown.get(label_id, (0, 0, name))
            self.unknown[label_id] = before + pixels, images_before + images, first

    def occurring(self, classes: Sequence[str]) -> list[str]:
        """Those of the network's classes, in train id order, that have a pixel."""
        return [name for name, pixels in zip(classes, self.pixels, strict=False) if pixels]

    def labelled_share(self, classes: Sequence[str]) -> float:
        """The share of the counted pixels that have a class."""
        return self.pixels[: len(classes)].sum() / max(1, self.pixels.sum())


def lack_of_classes(survey: Survey, classes: Sequence[str]) -> str | None:
    """The rule: why nothing can be learned from the counted labels; None if something can."""
    occurring = survey.occurring(classes)
    if not occurring:
        return "no label has a pixel of a class"
    if len(occurring) < MIN_CLASSES:
        return f"every labelled pixel is {occurring[0]}; a single class has nothing to be told from"
    return None


def confusion_of_ids(survey: Survey, table: LabelTable) -> str | None:
    """A line if the labels hold train ids under the name of label ids; None if they do not seem to."""
    if not table.hold_train_ids(survey.ids):
        return None
    number = table.classes[1]
    return (
        f"the labels hold no id from {number} to 254: they seem to be train ids (0 to {number - 1}, 255) but "
        "are read as label ids; replace the files, or describe them with label-format: train-ids"
    )


def doubts(survey: Survey, classes: Sequence[str], table: LabelTable | None = None) -> list[str]:
    """What to warn of where a run goes on: `lack_of_classes`, confused ids, hardly any labelled pixel."""
    found = [lack_of_classes(survey, classes), table and confusion_of_ids(survey, table)]
    share = survey.labelled_share(classes)
    if 0 < share < FEW_LABELS:
        found.append(f"almost nothing is labelled: {100 * share:.2g} % of the pixels")
    return [doubt for doubt in found if doubt]


def check_pair(pair: Adaptation) -> None:
    """The rule for what the descriptions say: at least two classes, and one of them in the target's labels.

    Raises:
        DataError: there are fewer.
    """
    described = {pair.source.name: pair.classes, pair.target.name: tuple(pair.target.colors)}
    for name, classes in described.items():
        if 0 < len(classes) < MIN_CLASSES:
            raise DataError(
                f"{name}: {classes[0]} is the only class and has nothing to be told from; add another, such "
                "as the background"
            )
    if pair.target.colors and len(pair.unknown_classes) == len(pair.target.colors):
        raise DataError(
            f"--target {pair.target.name}: none of its classes ({', '.join(pair.unknown_classes)}) is one of "
            f"the source's ({', '.join(pair.classes)}); classes are matched by name"
        )


def check_learnable(data: SegmentationDataset) -> Survey:
    """The rule for labels to train on; the counts of a sample of `SAMPLE` of them, of all if they are fewer.

    Raises:
        DataError: they have no class, or only one. In pseudo labels one is a doubt: the network has others.
    """
    survey, classes = survey_labels(data, SAMPLE), tuple(data.colors)
    lack = lack_of_classes(survey, classes)
    if lack and not (data.pseudo_folder and survey.occurring(classes)):
        advice = "give the ids in these files to classes; check_data.py counts them"
        if data.pseudo_folder:
            advice = "make them again with a lower --threshold, a larger --portion or a better snapshot"
        raise DataError(f"{_place(data)}: {lack} ({survey.counted} labels); {advice}")
    return survey


def check_scorable(data: SegmentationDataset) -> str | None:
    """The rule for labels to score with; a warning if they have a single class.

    Raises:
        DataError: they have none.
    """
    survey, classes = survey_labels(data), tuple(data.colors)
    lack = lack_of_classes(survey, classes)
    if not survey.occurring(classes):
        raise DataError(
            f"{_place(data)}: {lack} ({survey.counted} labels): nothing to score; benchmarks withhold the "
            "labels of their test part: predict it with generate_plabel_cityscapes.py --save or segment.py"
        )
    lack = lack and f"{lack}: a network that predicts nothing else scores 100"
    return lack or confusion_of_ids(survey, data.table)


def has_class(data: SegmentationDataset) -> bool:
    """Whether any label has a pixel of a class."""
    return bool(survey_labels(data, enough=1).occurring(tuple(data.colors)))


def survey_labels(
    data: SegmentationDataset, sample: int = CHECKING_THREADS, enough: int = MIN_CLASSES
) -> Survey:
    """The counts of at most `sample` labels spread over the set, and of more until `enough` classes occur.

    So good labels cost little, and labels are only found wanting after all of them were read.

    Raises:
        DataError: a label cannot be read, or has an id that is not in the table.
    """
    survey, step = Survey(), -(-len(data) // sample)
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        for first in range(step):
            for image in pool.map(partial(survey_label, data), data.names[first::step].tolist()):
                survey.add(image)
            for *_, name in survey.unknown.values():
                data.train_ids(name)  # raises, naming the file
            if len(survey.occurring(tuple(data.colors))) >= enough:
                break
    return survey


def survey_label(data: SegmentationDataset, name: str) -> Survey:
    """The counts of an image's label, if it has one; the image is not opened."""
    path = data.existing_label(name, required=False)
    if path is None:
        return Survey(images=1, missing=[name])
    ids = data.reader.read(path)
    if ids.min() < 0 or ids.max() >= IDS:
        raise DataError(f"{path}: has ids from {ids.min()} to {ids.max()}; they must be 0 to {IDS - 1}")
    counts = np.bincount(ids.ravel(), minlength=IDS)
    found = Survey(images=1, labels=1, counted=1, ids=set(np.flatnonzero(counts).tolist()))
    unknown = np.flatnonzero((counts > 0) & ~data.table.known)
    found.unknown = {int(label_id): (int(counts[label_id]), 1, name) for label_id in unknown}
    counts[unknown] = 0
    np.add.at(found.pixels, data.table.train_ids, counts)
    found.images_with += found.pixels > 0
    return found


def survey_image(data: SegmentationDataset, name: str) -> Survey:
    """The counts of one image and its label, both decoded."""
    found, label_path = Survey(), data.existing_label(name, required=False)
    try:
        size = check_image(data.image_path(name))
        found.sizes[size] += 1
        decode_image(data.image_path(name))  # only decoding finds damage behind the header
        if label_path is not None:
            check_label(label_path, data.reader, size)
        found.add(survey_label(data, name))
    except DataError as error:
        found.add(Survey(images=1, labels=int(label_path is not None), faults=[str(error)]))
    return found


def survey_images(dataset: SegmentationDataset, workers: int) -> Iterable[Survey]:
    """The survey of each image, in order, made by `workers` processes."""
    names = dataset.names.tolist()
    return load(names, workers, batch_size=None, collate_fn=partial(survey_image, dataset))


def _place(data: SegmentationDataset) -> object:
    """The folder of pseudo labels, else the first label."""
    return data.pseudo_folder or data.label_path(str(data.names[0]))
