"""The content of a data set: every image decoded, every label pixel counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from dataset.base import SegmentationDataset
from dataset.images import DataError, check_image, check_label, decode_image
from dataset.labels import IDS
from dataset.sampling import load

TRAIN_IDS = 256


@dataclass
class Survey:
    """What the images of a data set and their labels hold.

    Pixels are counted by train id, 255 (or the ignore label) for no class. `faults`: one line per file that
    would stop a training. `unknown`: label id missing from the table -> its pixels, its images, and the first
    of them.
    """

    images: int = 0
    sizes: Counter = field(default_factory=Counter)  # (width, height) -> images
    missing: list[str] = field(default_factory=list)  # images without a label
    faults: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(TRAIN_IDS, np.int64))
    unknown: dict[int, tuple[int, int, str]] = field(default_factory=dict)

    @property
    def labelled(self) -> int:
        """The number of images with a usable label."""
        return self.images - len(self.missing) - len(self.faults)

    def add(self, other: "Survey") -> None:
        """Add the counts of further images."""
        self.images += other.images
        self.sizes += other.sizes
        self.missing += other.missing
        self.faults += other.faults
        self.pixels += other.pixels
        self.images_with += other.images_with
        for label_id, (pixels, images, name) in other.unknown.items():
            before, images_before, first = self.unknown.get(label_id, (0, 0, name))
            self.unknown[label_id] = before + pixels, images_before + images, first


def survey_image(dataset: SegmentationDataset, name: str) -> Survey:
    """The counts of one image and its label, both decoded."""
    found = Survey(images=1)
    path, label_path = dataset.image_path(name), dataset.existing_label(name, required=False)
    try:
        size = check_image(path)
        found.sizes[size] += 1
        decode_image(path)  # only decoding finds damage behind the header
        if label_path is None:
            found.missing.append(name)
            return found
        check_label(label_path, dataset.reader, size)
        ids = dataset.reader.read(label_path)
        if ids.min() < 0 or ids.max() >= IDS:
            raise DataError(
                f"{label_path}: has ids from {ids.min()} to {ids.max()}; they must be 0 to {IDS - 1}"
            )
    except DataError as error:
        found.faults.append(str(error))
        return found
    counts = np.bincount(ids.ravel(), minlength=IDS)
    unknown = np.flatnonzero((counts > 0) & ~dataset.table.known)
    found.unknown = {int(label_id): (int(counts[label_id]), 1, name) for label_id in unknown}
    counts[unknown] = 0
    np.add.at(found.pixels, dataset.table.train_ids, counts)
    found.images_with += found.pixels > 0
    return found


def survey_images(dataset: SegmentationDataset, workers: int) -> Iterable[Survey]:
    """The survey of each image, in order, made by `workers` processes."""
    names = dataset.names.tolist()
    return load(names, workers, batch_size=None, collate_fn=partial(survey_image, dataset))
