"""What a data set really holds: every image's header and every pixel of every label, looked at once."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import DataLoader, Dataset

from dataset.base import SegmentationDataset
from dataset.images import DataError, check_sizes, decode_image, read_header
from dataset.labels import IDS

TRAIN_IDS = 256


@dataclass
class Survey:
    """The findings. Pixels are counted by train id, 255 (or the ignore label) for those without a class.

    `faults`: what stops a training, file by file. `unknown`: label ids that the table does not know, in how
    many pixels and images, and the first of these.
    """

    images: int = 0
    labelled: int = 0
    sizes: Counter = field(default_factory=Counter)  # (width, height) -> images
    missing: list[str] = field(default_factory=list)  # images without a label
    faults: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    unknown: dict[int, tuple[int, int, str]] = field(default_factory=dict)

    def add(self, seen: "Seen") -> None:
        """Count an image in."""
        self.images += 1
        if seen.size:
            self.sizes[seen.size] += 1
        if seen.fault:
            self.faults.append(seen.fault)
        elif seen.pixels is None:
            self.missing.append(seen.name)
        else:
            self.labelled += 1
            self.pixels += seen.pixels
            self.images_with += seen.pixels > 0
        for number, count in seen.unknown.items():
            pixels, images, first = self.unknown.get(number, (0, 0, seen.name))
            self.unknown[number] = pixels + count, images + 1, first


@dataclass
class Seen:
    """The findings of one image; `pixels` (256,) of its label, None where it has none or a fault."""

    name: str
    size: tuple[int, int] | None = None
    fault: str | None = None
    pixels: np.ndarray | None = None
    unknown: dict[int, int] = field(default_factory=dict)


class _Looks(Dataset):
    """Item i: what is seen of image i."""

    def __init__(self, dataset: SegmentationDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Seen:
        return look(self.dataset, self.dataset.names[index])


def look(dataset: SegmentationDataset, name: str) -> Seen:
    """Everything that can be said of one image and its label."""
    seen = Seen(name)
    path = dataset.image_path(name)
    try:
        seen.size, _ = read_header(path)
        decode_image(path)  # only this shows a file that is damaged behind its header
        label = dataset.label_path(name)
        if label is None or not label.is_file():
            return seen
        check_sizes(label, read_header(label)[0], seen.size)
        ids = dataset.reader.read(label)
    except DataError as error:
        seen.fault = str(error)
        return seen
    if ids.min() < 0 or ids.max() >= IDS:
        seen.fault = f"{label}: holds ids from {ids.min()} to {ids.max()}; ids are 0 to {IDS - 1}"
        return seen
    counts = np.bincount(ids.ravel(), minlength=IDS)
    unknown = np.flatnonzero((counts > 0) & ~dataset.table.known)
    seen.unknown = {int(number): int(counts[number]) for number in unknown}
    counts[unknown] = 0
    seen.pixels = np.zeros(TRAIN_IDS, np.int64)
    np.add.at(seen.pixels, dataset.table.train_ids, counts)
    return seen


def looks(dataset: SegmentationDataset, workers: int):
    """What is seen of every image, in order, by `workers` processes."""
    return DataLoader(_Looks(dataset), batch_size=None, num_workers=workers, collate_fn=None)
