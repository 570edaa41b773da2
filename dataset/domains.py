"""The domains of an adaptation: the papers' data sets as data, and pairs of source and target.

`find_domain` reads what `--source` and `--target` say: a name, or a description of your own data
(`dataset.own`). `Adaptation` holds what follows from the pair: classes, means, defaults.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dataset.base import SegmentationDataset
from dataset.cityscapes import Cityscapes
from dataset.gta5 import GTA5
from dataset.images import FirstChannelReader, IdReader, LabelReader
from dataset.labels import (
    CITYSCAPES_CLASS_OF_ID,
    CITYSCAPES_COLORS,
    CITYSCAPES_KNOWN_IDS,
    IGNORE,
    NOT_IN_SYNTHIA,
    NOT_IN_SYNTHIA_13,
    ROBOTCAR_CLASS_OF_ID,
    ROBOTCAR_COLORS,
    ROBOTCAR_OF_CITYSCAPES,
    SYNTHIA_CLASS_OF_ID,
    Colors,
    LabelTable,
)
from dataset.robotcar import RobotCar
from dataset.synthia import Synthia
from dataset.transforms import MIN_LABEL_VALUES, Size

NO_THRESHOLD = 1.0  # pseudo labels of every pixel
CONFIDENT = 0.9  # threshold of the papers for SYNTHIA and RobotCar
ROBOTCAR_MIN_LABEL_VALUES = 4
EVALUATION_SCALES = (1.0, 1.25)
ROBOTCAR_EVALUATION_SCALES = (1.0, 0.8)


@dataclass(frozen=True)
class Domain:
    """A data set as source or target.

    Args:
        name: as `--source` and `--target` spell it.
        prefix: of the snapshots that were trained with it as the source.
        root: its folder unless a flag says another.
        colors: class name -> colour; empty where nothing is known of its classes.
        class_of_id: label id -> class name.
        known_ids: the ids that a label may hold; None: any, and those without a class are void.
        dataset: makes its images and labels from the arguments of `SegmentationDataset`.
        reader: how its label files become ids.
        source_size, target_size, pseudo_size: (height, width) as source, as target stream, as
            pseudo-labelled stream.
        built_in: one of the papers'.
        bare: the root itself holds the pictures.
    """

    name: str
    prefix: str
    root: Path
    colors: Colors
    class_of_id: Mapping[int, str]
    known_ids: Sequence[int] | None
    dataset: Callable[..., SegmentationDataset]
    reader: LabelReader = field(default_factory=IdReader)
    source_size: Size = (720, 1280)
    target_size: Size = (512, 1024)
    pseudo_size: Size = (640, 1280)
    built_in: bool = False
    bare: bool = False

    def table(self, classes: Sequence[str], ignore_label: int = IGNORE) -> LabelTable:
        """How its labels read as train ids of `classes`, by name."""
        class_of_id = self.class_of_id
        if self.built_in and tuple(classes) == tuple(ROBOTCAR_COLORS) and self.colors != ROBOTCAR_COLORS:
            class_of_id = {i: ROBOTCAR_OF_CITYSCAPES.get(name, "") for i, name in class_of_id.items()}
        return LabelTable.from_classes(class_of_id, classes, self.known_ids, ignore_label)

    def pseudo_root(self, root: Path) -> Path:
        """Where folders of pseudo labels lie: in the data set's, but never among its pictures."""
        root = Path(os.path.realpath(root)) if self.bare else root
        return root.with_name(f"{root.name}_pseudo") if self.bare else root


# fmt: off
BUILT_IN = {
    domain.name: domain
    for domain in (
        Domain("gta5", "GTA5", Path("./data/GTA5"), CITYSCAPES_COLORS, CITYSCAPES_CLASS_OF_ID,
               CITYSCAPES_KNOWN_IDS, GTA5, built_in=True),
        Domain("synthia", "SYNTHIA", Path("./data/synthia"), CITYSCAPES_COLORS, SYNTHIA_CLASS_OF_ID,
               None, Synthia, FirstChannelReader(), built_in=True),
        Domain("cityscapes", "Cityscapes", Path("./data/Cityscapes/data"), CITYSCAPES_COLORS,
               CITYSCAPES_CLASS_OF_ID, CITYSCAPES_KNOWN_IDS, Cityscapes, source_size=(640, 1280),
               built_in=True),
        Domain("robotcar", "RobotCar", Path("./data/Oxford_Robot_ICCV19"), ROBOTCAR_COLORS,
               ROBOTCAR_CLASS_OF_ID, None, RobotCar, FirstChannelReader(), target_size=(960, 1280),
               pseudo_size=(960, 1280), built_in=True),
    )
}
# fmt: on
SOURCES = ("gta5", "synthia", "cityscapes")
TARGETS = ("cityscapes", "robotcar")


def find_domain(text: str) -> Domain:
    """The domain of that name, or of that description file or folder.

    Raises:
        DataError: there is none, or the description cannot be used.
    """
    if text in BUILT_IN:
        return BUILT_IN[text]
    from dataset.own import read_domain  # it makes domains, so it imports this file

    return read_domain(Path(text))


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
        """Title -> train ids of the classes that a mean IoU is over; the first is the benchmark's."""
        everything = self._without(())
        if self.source.name != "synthia" or self.colors != CITYSCAPES_COLORS:
            return {"mIoU": everything}
        return {"mIoU": self._without(NOT_IN_SYNTHIA), "mIoU*": self._without(NOT_IN_SYNTHIA_13)}

    def _without(self, names: Sequence[str]) -> list[int]:
        return [index for index, name in enumerate(self.colors) if name not in names]

    @property
    def threshold(self) -> float:
        """Confidence that pseudo labels need by default."""
        confident = self.source.name == "synthia" or self.target.name == "robotcar"
        return CONFIDENT if confident else NO_THRESHOLD

    @property
    def evaluation_scales(self) -> tuple[float, ...]:
        """Scales of an evaluation by default; pseudo labels are made at `EVALUATION_SCALES`."""
        return ROBOTCAR_EVALUATION_SCALES if self.target.name == "robotcar" else EVALUATION_SCALES

    @property
    def unknown_classes(self) -> list[str]:
        """Classes of the target's labels that the network does not have; their pixels count nowhere."""
        return [name for name in self.target.colors if name not in self.colors]

    def pseudo_folder(self, root: Path, split: str, threshold: float) -> Path:
        """Where the pseudo labels of the target's `split` lie by default, as published where it was.

        `pseudo_FULL/<split>` or `pseudo_0.9/<split>` (GTA5), `pseudo_SYNTHIA/<split>`,
        `pseudo_<split>_0.9` (RobotCar).
        """
        kind = "FULL" if threshold == NO_THRESHOLD else f"{threshold:.1f}"
        root = self.target.pseudo_root(root)
        if self.target.name == "robotcar" and self.source.name == "cityscapes":
            return root / f"pseudo_{split}_{kind}"
        if self.source.name == "gta5":
            return root / f"pseudo_{kind}" / split
        if threshold == self.threshold:
            return root / f"pseudo_{self.source.prefix}" / split
        return root / f"pseudo_{self.source.prefix}_{kind}" / split


def adapt(source: Domain, target: Domain) -> Adaptation:
    """The pair; its classes are the source's, but the nine of RobotCar where that is the target."""
    if target.name == "robotcar" and source.built_in:
        return Adaptation(source, target, ROBOTCAR_COLORS)
    return Adaptation(source, target, source.colors)


def min_label_values(domain: Domain, colors: Colors) -> int:
    """How many label values a crop of the labelled stream must exceed: 10; 4 for RobotCar's nine.

    For your own classes half of them, at most 10.
    """
    if colors == ROBOTCAR_COLORS:
        return ROBOTCAR_MIN_LABEL_VALUES
    return MIN_LABEL_VALUES if domain.built_in else min(MIN_LABEL_VALUES, len(colors) // 2)
