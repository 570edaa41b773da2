"""What a data set really holds: every image decoded, every label pixel counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch.utils.data import DataLoader

from dataset.base import SegmentationDataset
from dataset.images import DataError, check_sizes, decode_image, read_header
from dataset.labels import IDS

TRAIN_IDS = 256


@dataclass
class Inspection:
    """What one image and its label hold; `pixels` (256,) by train id, None without a usable label."""

    name: str
    size: tuple[int, int] | None = None
    fault: str | None = None
    pixels: np.ndarray | None = None
    unknown: dict[int, int] = field(default_factory=dict)  # label ids missing from the table -> pixels


@dataclass
class Survey:
    """The sum of all inspections. Pixels are counted by train id, 255 (or the ignore label) for no class.

    `faults`: one line per file that would stop a training. `unknown`: label id missing from the table ->
    its pixels, its images, and the first of them.
    """

    images: int = 0
    labelled: int = 0
    sizes: Counter = field(default_factory=Counter)  # (width, height) -> images
    missing: list[str] = field(default_factory=list)  # images without a label
    faults: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    unknown: dict[int, tuple[int, int, str]] = field(default_factory=dict)

    def add(self, image: Inspection) -> None:
        """Count one image in."""
        self.images += 1
        if image.size:
            self.sizes[image.size] += 1
        if image.fault:
            self.faults.append(image.fault)
        elif image.pixels is None:
            self.missing.append(image.name)
        else:
            self.labelled += 1
            self.pixels += image.pixels
            self.images_with += image.pixels > 0
        for label_id, count in image.unknown.items():
            pixels, images, first = self.unknown.get(label_id, (0, 0, image.name))
            self.unknown[label_id] = pixels + count, images + 1, first


def inspect_image(dataset: SegmentationDataset, name: str) -> Inspection:
    """Decode one image and its label."""
    result = Inspection(name)
    path = dataset.image_path(name)
    try:
        result.size, _ = read_header(path)
        decode_image(path)  # only decoding finds damage behind the header
        label = dataset.label_path(name)
        if label is None or not label.is_file():
            return result
        check_sizes(label, read_header(label)[0], result.size)
        ids = dataset.reader.read(label)
    except DataError as error:
        result.fault = str(error)
        return result
    if ids.min() < 0 or ids.max() >= IDS:
        result.fault = f"{label}: has ids from {ids.min()} to {ids.max()}; they must be 0 to {IDS - 1}"
        return result
    counts = np.bincount(ids.ravel(), minlength=IDS)
    unknown = np.flatnonzero((counts > 0) & ~dataset.table.known)
    result.unknown = {int(label_id): int(counts[label_id]) for label_id in unknown}
    counts[unknown] = 0
    result.pixels = np.zeros(TRAIN_IDS, np.int64)
    np.add.at(result.pixels, dataset.table.train_ids, counts)
    return result


def inspect_images(dataset: SegmentationDataset, workers: int) -> Iterable[Inspection]:
    """The inspection of every image, in order, by `workers` processes."""
    names = dataset.names.tolist()
    return DataLoader(names, batch_size=None, num_workers=workers, collate_fn=partial(inspect_image, dataset))
