"""Which domains there are, and what follows from a pair of source and target: classes, means, defaults."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from dataset import robotcar, synthia
from dataset.base import Domain
from dataset.cityscapes import CITYSCAPES, CITYSCAPES_COLORS
from dataset.gta5 import GTA5
from dataset.labels import IGNORE, Colors, LabelTable
from dataset.own import read_domain
from dataset.robotcar import ROBOTCAR, ROBOTCAR_COLORS
from dataset.synthia import SYNTHIA
from dataset.transforms import MIN_LABEL_VALUES, Size

BUILT_IN = {domain.name: domain for domain in (GTA5, SYNTHIA, CITYSCAPES, ROBOTCAR)}
SOURCES = ("gta5", "synthia", "cityscapes")
TARGETS = ("cityscapes", "robotcar")
NO_THRESHOLD = 1.0  # every pixel gets a pseudo label
CONFIDENT = 0.9  # the papers' threshold for SYNTHIA and RobotCar
EVALUATION_SCALES = (1.0, 1.25)
SWA_BATCH, SWA_BATCH_SYNTHIA = 18, 24
EXTRA_CROP = (480, 960)  # height, width


def find_domain(text: str) -> Domain:
    """The domain with this name, or in this description file or folder.

    Raises:
        DataError: there is none, or the description is wrong.
    """
    return BUILT_IN[text] if text in BUILT_IN else read_domain(Path(text))


@dataclass(frozen=True)
class ExtraPasses:
    """How AdaBoost_Seg shows the target's training images to an average of networks, as released.

    Args:
        batch: images per batch.
        crop, measured_crop: (height, width) of random crops for the BN statistics and for the sampler; None:
            whole images.
        measured_batch: images per batch of the sampler; None: `batch`.
        repeats: how often the statistics see each image.
        mirrored_in_stage2: whether Stage II too mirrors images with probability 0.5 for the statistics.
    """

    batch: int = SWA_BATCH
    crop: Size | None = EXTRA_CROP
    measured_crop: Size | None = EXTRA_CROP
    measured_batch: int | None = None
    repeats: int = 1
    mirrored_in_stage2: bool = True


@dataclass(frozen=True)
class Adaptation:
    """A pair of domains and what follows from it.

    Args:
        source, target: the domains.
        colors: the network's classes, name -> colour in train id order.
    """

    source: Domain
    target: Domain
    colors: Colors

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's classes in train id order."""
        return tuple(self.colors)

    @cached_property
    def means(self) -> dict[str, list[int]]:
        """Name of each mean IoU -> the train ids it is taken over; the benchmark's own first."""
        excluded = {"mIoU": ()}
        if self.source.name == "synthia" and self.colors == CITYSCAPES_COLORS:
            excluded = {"mIoU": synthia.NOT_IN_MIOU, "mIoU*": synthia.NOT_IN_MIOU_13}
        return {
            mean: [index for index, name in enumerate(self.colors) if name not in names]
            for mean, names in excluded.items()
        }

    @property
    def threshold(self) -> float:
        """The default confidence threshold of pseudo labels."""
        confident = self.source.name == "synthia" or self.target.name == "robotcar"
        return CONFIDENT if confident else NO_THRESHOLD

    @property
    def extra_passes(self) -> ExtraPasses:
        """How images are shown to an average of networks."""
        if self.target.name == "robotcar":
            return ExtraPasses(measured_crop=None, measured_batch=8, repeats=3, mirrored_in_stage2=False)
        if self.source.name == "synthia":
            return ExtraPasses(SWA_BATCH_SYNTHIA, crop=None, measured_crop=None)
        return ExtraPasses()

    @property
    def evaluation_scales(self) -> tuple[float, ...]:
        """The default scales of an evaluation; pseudo labels are made at `EVALUATION_SCALES`."""
        return robotcar.EVALUATION_SCALES if self.target.name == "robotcar" else EVALUATION_SCALES

    @property
    def unknown_classes(self) -> list[str]:
        """Classes of the target's labels that the network does not have; their pixels are ignored."""
        return [name for name in self.target.colors if name not in self.colors]

    def pseudo_folder(self, root: Path, split: str, threshold: float, portion: float = 0) -> Path:
        """The default folder of pseudo labels of the target's `split`; published pairs keep their names.

        `pseudo_FULL/<split>` or `pseudo_0.9/<split>` (GTA5), `pseudo_SYNTHIA/<split>`,
        `pseudo_<split>_0.9` (RobotCar). Class-balanced labels have `CB_<portion>` for the threshold.
        """
        kind = "FULL" if threshold >= NO_THRESHOLD else f"{threshold:.1f}"
        kind = f"CB_{portion:.2f}" if portion else kind
        if self.target.bare:  # not among the images
            root = Path(os.path.realpath(root))
            root = root.with_name(f"{root.name}_pseudo")
        if self.target.name == "robotcar" and self.source.name == "cityscapes":
            return root / f"pseudo_{split}_{kind}"
        if self.source.name == "gta5":
            return root / f"pseudo_{kind}" / split
        if threshold == self.threshold and not portion:
            return root / f"pseudo_{self.source.prefix}" / split
        return root / f"pseudo_{self.source.prefix}_{kind}" / split


def adapt(source: Domain, target: Domain) -> Adaptation:
    """The pair, in the source's classes, or in RobotCar's nine where that is the target."""
    if target.name == "robotcar" and source.name in BUILT_IN:
        return Adaptation(source, target, ROBOTCAR_COLORS)
    return Adaptation(source, target, source.colors)


def label_table(domain: Domain, colors: Colors, ignore_label: int = IGNORE) -> LabelTable:
    """The domain's label ids -> train ids of the classes `colors`, matched by name."""
    table = LabelTable.from_ids(train_id_of(domain, colors), domain.known_ids, ignore_label)
    return replace(table, classes=(frozenset(domain.class_of_id), len(domain.colors)))


def train_id_of(domain: Domain, colors: Colors) -> dict[int, int]:
    """The domain's label ids -> train ids of the classes `colors`, in the order of its table."""
    class_of_id = domain.class_of_id
    if domain.name in SOURCES and tuple(colors) == tuple(ROBOTCAR_COLORS):
        class_of_id = {i: robotcar.CLASS_OF_CITYSCAPES.get(name) for i, name in class_of_id.items()}
    train_id = {name: index for index, name in enumerate(colors)}
    return {i: train_id[name] for i, name in class_of_id.items() if name in train_id}


def min_label_values(domain: Domain, colors: Colors) -> int:
    """How many label values a crop of the labelled stream must exceed: 10, or 4 with RobotCar's classes.

    With your own classes half of them, at most 10.
    """
    if colors == ROBOTCAR_COLORS:
        return robotcar.MIN_LABEL_VALUES
    return MIN_LABEL_VALUES if domain.name in BUILT_IN else min(MIN_LABEL_VALUES, len(colors) // 2)
