"""Label tables as data: class names, colours, and how a data set's label ids read as train ids."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

IGNORE = 255
IDS = 2**16  # a label file holds ids of 8 or 16 bits

Color = tuple[int, int, int]
Colors = dict[str, Color]

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
CITYSCAPES_CLASS_OF_ID = {i: list(CITYSCAPES_COLORS)[train_id] for i, train_id in CITYSCAPES_IDS.items()}

# SYNTHIA (RAND-CITYSCAPES), in the order of its ids; 0, 13, 14 and 22 have no class.
SYNTHIA_CLASS_OF_ID = {
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
}
# What both papers leave out of the means on SYNTHIA -> Cityscapes: of mIoU (16 classes) and of mIoU* (13).
NOT_IN_SYNTHIA = ("terrain", "truck", "train")
NOT_IN_SYNTHIA_13 = (*NOT_IN_SYNTHIA, "wall", "fence", "pole")

# Oxford RobotCar, in train id order.
ROBOTCAR_COLORS = {
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "two-wheel": (119, 11, 32),
    "automobile": (0, 0, 142),
    "sign": (220, 220, 0),
    "light": (250, 170, 30),
    "building": (70, 70, 70),
    "sidewalk": (244, 35, 232),
    "road": (128, 64, 128),
}
ROBOTCAR_CLASS_OF_ID = {
    1: "sky",
    2: "person",
    3: "two-wheel",
    4: "automobile",
    5: "sign",
    6: "light",
    7: "building",
    10: "sidewalk",
    **dict.fromkeys((11, 12, 13, 14, 17), "road"),
}
# The nine as a source in Cityscapes' classes shows them; what is not here (train too) has no class.
ROBOTCAR_OF_CITYSCAPES = {
    "sky": "sky",
    "person": "person",
    "rider": "person",
    "motorcycle": "two-wheel",
    "bicycle": "two-wheel",
    "car": "automobile",
    "truck": "automobile",
    "bus": "automobile",
    "traffic sign": "sign",
    "traffic light": "light",
    "building": "building",
    "sidewalk": "sidewalk",
    "road": "road",
}


class UnknownIds(ValueError):
    """Ids in a label file that its table does not know; the message says which and in how many pixels."""


@dataclass(frozen=True)
class LabelTable:
    """How the ids in a label file read.

    `train_ids` (65536,) uint8: the train id of each label id, 255 for none. `known` (65536,) bool: the ids
    that may occur; any other means that the file is not what it is taken for.
    """

    train_ids: np.ndarray
    known: np.ndarray

    @classmethod
    def from_ids(
        cls, ids: Mapping[int, int], known: Iterable[int] | None, ignore_label: int = IGNORE
    ) -> "LabelTable":
        """`ids`: label id -> train id; every other id of `known` (None: of all) becomes `ignore_label`."""
        train_ids = np.full(IDS, ignore_label, np.uint8)
        train_ids[list(ids)] = list(ids.values())
        mask = np.full(IDS, known is None)
        if known is not None:
            mask[list(known)] = True
        return cls(train_ids, mask)

    @classmethod
    def from_classes(
        cls,
        class_of_id: Mapping[int, str],
        classes: Sequence[str],
        known: Iterable[int] | None,
        ignore_label: int = IGNORE,
    ) -> "LabelTable":
        """`class_of_id`: label id -> class name; a class's train id is its place among `classes`."""
        train_id = {name: index for index, name in enumerate(classes)}
        ids = {i: train_id[name] for i, name in class_of_id.items() if name in train_id}
        return cls.from_ids(ids, known, ignore_label)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Label ids (H, W) -> train ids (H, W) uint8.

        Raises:
            UnknownIds: an id has no place in the table.
        """
        self.present(ids)
        return self.train_ids.take(ids)

    def present(self, ids: np.ndarray) -> np.ndarray:
        """The distinct ids among (H, W), in order.

        Raises:
            UnknownIds: an id has no place in the table.
        """
        if ids.dtype not in (np.uint8, np.uint16) and (ids.min() < 0 or ids.max() >= IDS):
            raise UnknownIds(f"ids from {ids.min()} to {ids.max()}")
        present = np.flatnonzero(np.bincount(ids.ravel()))
        if not self.known[present].all():
            raise UnknownIds("id " + format_counts(ids[~self.known[ids]]))
        return present


def format_counts(values: np.ndarray) -> str:
    """The distinct values among (N,) or rows among (N, k), most frequent first, and in how many pixels."""
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = []
    for index in order[:5]:
        value = distinct[index].tolist()
        shown.append(f"{tuple(value) if isinstance(value, list) else value} in {counts[index]} pixels")
    return ", ".join(shown) + (f" and {len(order) - 5} more" if len(order) > 5 else "")


def train_id_table(num_classes: int, ignore_label: int = IGNORE) -> LabelTable:
    """Files that hold train ids already (pseudo labels), with 255 where there is no label."""
    return LabelTable.from_ids(
        {i: i for i in range(num_classes)}, (*range(num_classes), IGNORE), ignore_label
    )


def palette(colors: Mapping[str, Color]) -> np.ndarray:
    """Colour of each train id, (256, 3) uint8; black where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = list(colors.values())
    return table
