"""Label tables as data: class names, colours, and how a data set's label ids read as train ids."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

IGNORE = 255

# Train id order; the colours are those of the Cityscapes benchmark.
CITYSCAPES_COLORS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
CITYSCAPES_IDS = dict(
    zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), range(19), strict=True)
)
# 0 ... 33 are Cityscapes' label ids; 34 is GTA5's licence plate; 255 is how both write "no label".
CITYSCAPES_KNOWN_IDS = (*range(35), IGNORE)


class UnknownIds(ValueError):
    """Ids in a label file that its table does not know; the message lists them."""


@dataclass(frozen=True)
class LabelTable:
    """How the ids in a label file read.

    `train_ids` (256,) uint8: the train id of each label id, 255 for none. `known` (256,) bool: the ids
    that may occur; any other means that the file is not what it is taken for.
    """

    train_ids: np.ndarray
    known: np.ndarray

    @classmethod
    def from_ids(
        cls, ids: Mapping[int, int], known: Iterable[int], ignore_label: int = IGNORE
    ) -> "LabelTable":
        """`ids`: label id -> train id; every other known id becomes `ignore_label`."""
        train_ids = np.full(256, ignore_label, np.uint8)
        train_ids[list(ids)] = list(ids.values())
        mask = np.zeros(256, bool)
        mask[list(known)] = True
        return cls(train_ids, mask)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Label ids (H, W) -> train ids (H, W) uint8.

        Raises:
            UnknownIds: an id has no place in the table.
        """
        if ids.dtype != np.uint8:
            if ids.min() < 0 or ids.max() > 255:
                raise UnknownIds(f"ids from {ids.min()} to {ids.max()}")
            ids = ids.astype(np.uint8)
        present = np.bincount(ids.ravel(), minlength=256) > 0
        unknown = np.flatnonzero(present & ~self.known)
        if len(unknown):
            raise UnknownIds("id " + ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else ""))
        return self.train_ids[ids]


def cityscapes_table(ignore_label: int = IGNORE) -> LabelTable:
    """Label ids of Cityscapes and GTA5."""
    return LabelTable.from_ids(CITYSCAPES_IDS, CITYSCAPES_KNOWN_IDS, ignore_label)


def train_id_table(num_classes: int, ignore_label: int = IGNORE) -> LabelTable:
    """Files that hold train ids already (pseudo labels), with 255 where there is no label."""
    return LabelTable.from_ids(
        {i: i for i in range(num_classes)}, (*range(num_classes), IGNORE), ignore_label
    )


def palette(colors: Mapping[str, tuple[int, int, int]]) -> np.ndarray:
    """Colour of each train id, (256, 3) uint8; black where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = list(colors.values())
    return table
