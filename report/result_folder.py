"""The folder of an evaluation: numbers of the set and of each image, and the maps of each image.

docs/results.md describes every file and column.
"""

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from dataset import DataError
from dataset.images import IdReader
from dataset.labels import Colors
from engine.evaluation import PixelCounts
from engine.result_folders import refuse_unfinished
from engine.snapshots import result_flags
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.pictures import nats_of_levels

FORMULA = tuple("=+-@\t\r\n")  # a spreadsheet computes a cell that begins so
TEXT = "'"  # before such a cell it marks text
METRICS, CLASSES, IMAGES, COUNTS = "metrics.json", "metrics.csv", "images.csv", "image_counts.npz"
RESULT_FILES = (METRICS, CLASSES, IMAGES, COUNTS)
MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError)
MALFORMED += (OverflowError, csv.Error, BadZipFile)
LEVELS = 255  # the highest in a score map or heat map
log = logging.getLogger(__name__)


def write_result(
    folder: Path, metrics: dict, names: Sequence[str], counts: PixelCounts, mean: Sequence[int]
) -> None:
    """Write an evaluation's numbers.

    Args:
        names: the images, in the order of `counts`.
        mean: train ids of the classes in the mean IoU.

    Raises:
        UserError: the folder cannot be written to.
    """
    arrays = {"counts": counts.per_image.numpy(), "mean_classes": np.array(mean)}
    atomic_write(folder / CLASSES, lambda tmp: _write_csv(tmp, list(_class_rows(metrics))))
    atomic_write(folder / IMAGES, lambda tmp: _write_csv(tmp, counts.image_rows(names, mean)))
    atomic_write(folder / COUNTS, lambda tmp: _write_arrays(tmp, arrays))
    atomic_write(folder / METRICS, lambda tmp: tmp.write_text(json.dumps(metrics)))


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # to a path numpy would append .npz
        np.savez(file, **arrays)


def _write_csv(path: Path, rows: Sequence[dict]) -> None:
    # File names may hold bytes that are not text; surrogateescape keeps them.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _as_text(value) for key, value in row.items()} for row in rows)


def _as_text(value: object) -> object:
    """A cell that no spreadsheet takes for a formula, whatever a file's or class's name begins with."""
    return TEXT + value if isinstance(value, str) and value.startswith((*FORMULA, TEXT)) else value


def _class_rows(metrics: dict) -> Iterator[dict]:
    """One row per class and mean; numbers as in the JSON, empty for null."""
    columns = metrics["classifiers"].items()
    pixels = labelled_pixels(metrics)
    for name, count in zip(metrics["iou"], pixels, strict=True):
        share = count / sum(pixels) if any(pixels) else None
        ious = {f"IoU {title}": column["iou"][name] for title, column in columns}
        yield {"kind": "class", "name": name, "pixels": count, "share": share} | ious
    for mean in metrics["means"]:
        yield {"kind": "mean", "name": mean} | {f"IoU {title}": c["means"][mean] for title, c in columns}


def labelled_pixels(metrics: dict) -> list[int]:
    """Labelled pixels of each class."""
    counts = zip(metrics["confusion"], metrics["void_predictions"], strict=True)
    return [sum(row) + void for row, void in counts]


class ImageScores(NamedTuple):
    """A row of images.csv, with the scores of the first column of predictions."""

    pixels: int
    accuracy: float | None
    miou: float | None
    uncertainty_mean: float | None
    uncertainty_max: float | None


@dataclass(frozen=True)
class Result:
    """The evaluation in `folder`; read it with `read_result`.

    Args:
        images: name -> scores, in the set's order.
        counts: hits, labelled and predicted pixels, (images, 3, classes in the mean); None for results
            written before there were any.
    """

    folder: Path
    metrics: dict
    images: dict[str, ImageScores]
    counts: np.ndarray | None

    @cached_property
    def colors(self) -> Colors:
        """Class name -> RGB in train id order."""
        return {name: tuple(color) for name, color in self.metrics["colors"].items()}

    @property
    def pixels(self) -> dict[str, int]:
        """Labelled pixels of each image."""
        return {name: scores.pixels for name, scores in self.images.items()}

    def prediction(self, image: str) -> np.ndarray:
        """Train ids (H, W) uint8, 255 for no class."""
        return self._map(image, "")

    def uncertainty(self, image: str) -> np.ndarray:
        """Nats (H, W) float32, in 256 steps; predictions read from files have none."""
        return nats_of_levels(self._map(image, "_heatmap"), self.images[image].uncertainty_max)

    def confidence(self, image: str) -> np.ndarray:
        """The mean probability of the predicted class (H, W) float32; predictions from files have none."""
        return np.float32(self._map(image, "_score")) / LEVELS

    def has_maps(self, image: str) -> bool:
        """Whether the files of an image that a page shows are still there."""
        suffixes = ("", "_heatmap", "_score") if self.metrics["uncertainty"] else ("",)
        return all(self._path(image, suffix).is_file() for suffix in suffixes)

    def _path(self, image: str, suffix: str) -> Path:
        # Scored prediction files stay in their own folder.
        folder = self.folder if self.metrics["uncertainty"] else Path(self.metrics["restore_from"])
        stem = folder / Path(image).with_suffix("")
        return stem.with_name(f"{stem.name}{suffix}.png")

    def _map(self, image: str, suffix: str) -> np.ndarray:
        path = self._path(image, suffix)
        if not path.is_file():
            raise DataError(f"{path}: no such file; evaluate again")
        # Files of 16 bits may hold more than 255, which is no class.
        return np.clip(IdReader().read(path), 0, LEVELS).astype(np.uint8)


def with_maps(results: Sequence[Result]) -> list[str]:
    """The images whose maps are still in all result folders; warns of the others."""
    images = list(results[0].images)
    kept = [image for image in images if all(result.has_maps(image) for result in results)]
    if gone := len(images) - len(kept):
        log.warning("Not shown, because their maps are gone: %d of %d images.", gone, len(images))
    return kept


def read_result(folder: Path) -> Result:
    """What `evaluate_cityscapes.py` wrote to a folder.

    Raises:
        UserError: it holds no result, an unfinished, outdated or malformed one.
    """
    refuse_unfinished(folder)
    if (flags := result_flags(folder)) and "report" not in flags:
        raise UserError(f"{folder}: other predictions were written there after its evaluation; evaluate anew")
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder}: holds no {METRICS}; name a folder that evaluate_cityscapes.py wrote")
    with well_formed(folder):
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        title = next(iter(metrics["classifiers"]))
        keys = (f"accuracy {title}", f"mIoU {title}", "uncertainty_mean", "uncertainty_max")
        images = {}
        with (folder / IMAGES).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                scores = (float(row[key]) if row[key] else None for key in keys)
                images[row["image"].removeprefix(TEXT)] = ImageScores(int(row["pixels"]), *scores)
        if [str(Path(name).with_suffix("")) for name in images] != metrics["names"]:
            raise ValueError(f"the images in {IMAGES} and {METRICS} differ")
        for name in (*images, metrics["data"]["set"]):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name} lies outside the folder")
        counts = None
        if (folder / COUNTS).is_file():
            with np.load(folder / COUNTS, allow_pickle=False) as arrays:
                counts = arrays["counts"][:, 0][:, :, arrays["mean_classes"]]
    return Result(folder, metrics, images, counts)


@contextmanager
def well_formed(*folders: Path) -> Iterator[None]:
    """What a damaged or edited result raises where its numbers are read and used, as one line.

    Raises:
        UserError: a value is missing, or of another kind or shape.
    """
    try:
        yield
    except MALFORMED as error:
        raise UserError(
            f"{', '.join(map(str, folders))}: no whole result ({type(error).__name__}: {error}); evaluate "
            "again with evaluate_cityscapes.py"
        ) from error
