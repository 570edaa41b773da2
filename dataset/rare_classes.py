"""Rare class sampling (DAFormer, arXiv 2111.14887): source images by class, rare ones more often."""

import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.base import SegmentationDataset
from dataset.cityscapes import CITYSCAPES_COLORS
from dataset.images import DataError
from dataset.sampling import load
from dataset.survey import survey_label
from dataset.transforms import Wanted

DAFORMER_FILE = "sample_class_stats.json"  # of its conversion scripts: pixels of each train id in each label
KEPT_FILE = "class_pixels.json"  # this project's, in the folder of the data set
DAFORMER_ENDS = ("_labelTrainIds", "_labelIds")  # of its label files, of those they were made from
log = logging.getLogger(__name__)


def class_probabilities(
    counts: Tensor | Sequence[int], temperature: float, usable: Tensor | None = None
) -> Tensor:
    """P(c) = softmax_c((1 - f_c) / T) of the classes' pixels (C,), float64; 0 for a class without a pixel.

    f_c is the class's share of all pixels. `usable` (C,) bool: other classes get 0 as well.
    """
    counts = torch.as_tensor(counts, dtype=torch.float64)
    usable = counts > 0 if usable is None else usable & (counts > 0)
    return ((1 - counts / counts.sum()) / temperature).masked_fill(~usable, -torch.inf).softmax(0)


def class_pixels(data: SegmentationDataset, workers: int) -> np.ndarray:
    """Pixels of each class in each label, (images, C) int64: DAFormer's file, or counted once and kept.

    Raises:
        DataError: a label cannot be read.
    """
    names, classes = data.names.tolist(), list(data.colors)
    if classes == list(CITYSCAPES_COLORS) and (found := _read_daformer(data, names)) is not None:
        return found
    path, train_ids = data.root / KEPT_FILE, data.table.train_ids
    made = {  # of other classes, another table or other files of labels: counted again
        "classes": classes,
        "table": [[i, int(train_ids[i])] for i in np.flatnonzero(train_ids < len(classes)).tolist()],
        "sizes": {name: os.path.getsize(data.label_path(name)) for name in names},
    }
    kept = _read(path)
    if any(kept.get(key) != value for key, value in made.items()):
        log.info("--rcs: counts the classes in %d labels; done once, kept in %s", len(names), path)
        counted = load(names, workers, batch_size=None, collate_fn=partial(_count, data))
        kept = made | {"pixels": list(counted)}
        _keep(path, kept)
    return np.array(kept["pixels"], np.int64)


def _count(data: SegmentationDataset, name: str) -> list[int]:
    """The pixels of each class in a label."""
    found = survey_label(data, name)
    if found.unknown:
        data.train_ids(name)  # raises, naming the file
    return found.pixels[: len(data.colors)].tolist()


def _read(path: Path) -> dict | list:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _keep(path: Path, content: dict) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        log.warning(
            "%s: cannot be written (%s), so labels are counted again next time.", path, error.strerror
        )


def _read_daformer(data: SegmentationDataset, names: list[str]) -> np.ndarray | None:
    """The counts in DAFormer's file; None without one, or if it lacks a label."""
    content = _read(data.root / DAFORMER_FILE)
    try:
        rows = {_stem(row["file"]): row for row in content}
        keys = [str(index) for index in range(len(data.colors))]
        return np.array(
            [[rows[_stem(data.label_path(name))].get(key, 0) for key in keys] for name in names], np.int64
        )
    except (LookupError, TypeError, ValueError):
        return None


def _stem(label_file: str | Path) -> str:
    stem = Path(label_file).stem
    for end in DAFORMER_ENDS:
        stem = stem.removesuffix(end)
    return stem


class RareClasses:
    """Draws a class, and an image with many pixels of it.

    Args:
        pixels: of each class in each image, (images, C).
        classes: their names.
        temperature: T; the lower, the rarer the classes.
        min_pixels: of the class that a drawn image has more than.
        crop_share: times `min_pixels`: what a crop is to show.

    Raises:
        DataError: no image has enough pixels of any class.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        classes: Sequence[str],
        temperature: float,
        min_pixels: int,
        crop_share: float,
    ):
        self.images = [np.flatnonzero(pixels[:, index] > min_pixels) for index in range(len(classes))]
        self.crop_pixels = min_pixels * crop_share
        usable = torch.tensor([len(images) > 0 for images in self.images])
        if not usable.any():
            raise DataError(f"--rcs-pixels {min_pixels}: no image has so many pixels of a class; lower it")
        counts = pixels.sum(0)
        self.probabilities = class_probabilities(counts, temperature, usable)
        self.cumulative = self.probabilities.cumsum(0).numpy()
        occurring = zip(classes, counts, usable.tolist(), strict=True)
        if rare := [name for name, count, use in occurring if count and not use]:
            log.warning(
                "--rcs leaves out %s: no image has more than %d pixels of it; lower --rcs-pixels to draw it.",
                ", ".join(rare),
                min_pixels,
            )

    def draw(self, rng: np.random.Generator) -> tuple[int, Wanted]:
        """An image's index, and what its crop is to show."""
        # Without the last sum, which may be a rounding below 1.
        index = int(np.searchsorted(self.cumulative[:-1], rng.random(), side="right"))
        return int(rng.choice(self.images[index])), Wanted(index, self.crop_pixels)
