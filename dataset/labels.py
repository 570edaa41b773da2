"""Label tables: how the ids in label files become train ids, and the colours that show train ids.

The tables of the published data sets are in their own files.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np

IGNORE = 255
IDS = 2**16  # label files hold ids of 8 or 16 bits

Color = tuple[int, int, int]
Colors = dict[str, Color]


class UnknownIds(ValueError):
    """Label ids missing from the table; the message lists them with their pixel counts."""


@dataclass(frozen=True)
class LabelTable:
    """A map from label ids to train ids.

    `train_ids` (65536,) uint8: the train id of each label id, 255 for none. `known` (65536,) bool: the ids
    that may occur; any other shows that the file is not a label of this set. `classes`: the label ids that
    have a class in the data set, which the network may lack, and its number of classes.
    """

    train_ids: np.ndarray
    known: np.ndarray
    classes: tuple[frozenset[int], int] = (frozenset(), 0)

    @classmethod
    def from_ids(
        cls, ids: Mapping[int, int], known: Iterable[int] | None, ignore_label: int = IGNORE
    ) -> "LabelTable":
        """`ids`: label id -> train id; all other ids in `known` (None: every id) become `ignore_label`."""
        train_ids = np.full(IDS, ignore_label, np.uint8)
        train_ids[list(ids)] = list(ids.values())
        mask = np.full(IDS, known is None)
        if known is not None:
            mask[list(known)] = True
        return cls(train_ids, mask)

    def hold_train_ids(self, ids: Set[int]) -> bool:
        """Whether the distinct ids of a set of labels are train ids rather than label ids.

        Then none is beyond the number of classes, although label ids are, and 255 or many without a class
        occur, where in label ids most have one.
        """
        class_ids, number = self.classes
        others = ids - {IGNORE}
        if not others or max(others) >= number or max(class_ids, default=0) < number or others <= class_ids:
            return False
        return IGNORE in ids or len(others - class_ids) > len(others & class_ids)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Label ids (H, W) -> train ids (H, W) uint8.

        Raises:
            UnknownIds: an id is not in the table.
        """
        self.present(ids)
        return self.train_ids.take(ids)

    def present(self, ids: np.ndarray) -> np.ndarray:
        """The distinct ids in (H, W), sorted.

        Raises:
            UnknownIds: an id is not in the table.
        """
        if ids.dtype not in (np.uint8, np.uint16) and (ids.min() < 0 or ids.max() >= IDS):
            raise UnknownIds(f"ids from {ids.min()} to {ids.max()}")
        present = np.flatnonzero(np.bincount(ids.ravel()))
        if not self.known[present].all():
            raise UnknownIds("id " + format_counts(ids[~self.known[ids]]))
        return present


def format_counts(values: np.ndarray) -> str:
    """Distinct values (N,) or rows (N, k) with their pixel counts, most frequent first, as text."""
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = []
    for index in order[:5]:
        value = distinct[index].tolist()
        shown.append(f"{tuple(value) if isinstance(value, list) else value} in {counts[index]} pixels")
    return ", ".join(shown) + (f" and {len(order) - 5} more" if len(order) > 5 else "")


def palette(colors: Mapping[str, Color]) -> np.ndarray:
    """The colour of each train id, (256, 3) uint8; black where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = list(colors.values())
    return table
