"""The folder of an evaluation: `metrics.json`, `metrics.csv`, `images.csv` and the maps of each image.

What the columns mean is in docs/results.md.
"""

import csv
import json
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dataset.base import prediction_name
from dataset.images import UNREADABLE, DataError, IdReader, open_image
from dataset.labels import Colors
from engine.evaluation import ImageScores, Scores
from utils import flag_types
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.pictures import nats_of_levels
from utils.uncertainty import UNCERTAINTIES

METRICS, CLASSES, IMAGES = "metrics.json", "metrics.csv", "images.csv"
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error)
DATA_KEYS = ("source", "target", "data_dir", "set")
LEVELS = 255  # of a score map


def write_result(folder: Path, metrics: dict, images: Sequence[ImageScores]) -> None:
    """Write the three files of an evaluation's numbers.

    Raises:
        UserError: the folder cannot be written to.
    """
    atomic_write(folder / CLASSES, lambda aside: _write_csv(aside, _class_rows(metrics)))
    atomic_write(folder / IMAGES, lambda aside: _write_csv(aside, _image_rows(metrics, images)))
    atomic_write(folder / METRICS, lambda aside: aside.write_text(json.dumps(metrics)))


def _write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    # A file name may hold bytes that are no text; they are kept.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _class_rows(metrics: dict) -> Iterator[Sequence]:
    """A row each class and each mean; numbers as in the JSON, empty for null."""
    columns = metrics["classifiers"].values()
    pixels = [
        sum(row) + void for row, void in zip(metrics["confusion"], metrics["void_predictions"], strict=True)
    ]
    total = sum(pixels)
    yield "kind", "name", "pixels", "share", *(f"IoU {title}" for title in metrics["classifiers"])
    for name, count in zip(metrics["iou"], pixels, strict=True):
        share = count / total if total else None
        yield "class", name, count, share, *(column["iou"][name] for column in columns)
    for mean in metrics["means"]:
        yield "mean", mean, None, None, *(column["means"][mean] for column in columns)


def _image_rows(metrics: dict, images: Iterable[ImageScores]) -> Iterator[Sequence]:
    titles = metrics["classifiers"]
    scores = [f"{field} {title}" for title in titles for field in ("accuracy", "mIoU")]
    yield "image", "pixels", *scores, "uncertainty_mean", "uncertainty_max"
    for row in images:
        numbers = [value for scores in row.scores for value in scores]
        yield row.image, row.pixels, *numbers, row.uncertainty_mean, row.uncertainty_max


@dataclass(frozen=True)
class Result:
    """An evaluation that lies in `folder`; read it with `read_result`.

    `images`: name -> its scores, in the set's order.
    """

    folder: Path
    metrics: dict
    images: dict[str, ImageScores]

    @cached_property
    def colors(self) -> Colors:
        """Class name -> RGB in train id order."""
        return {name: tuple(color) for name, color in self.metrics["colors"].items()}

    @property
    def column(self) -> dict:
        """`means`, `iou` and `pixel_accuracy` of the predictions whose maps were written."""
        return next(iter(self.metrics["classifiers"].values()))

    def prediction(self, image: str) -> np.ndarray | None:
        """Train ids (H, W), None where there is no file.

        Raises:
            DataError: the file is none of train ids.
        """
        # Of files that no network made, the folder holds the scores alone.
        scored = not self.metrics["uncertainty"]
        path = (Path(self.metrics["restore_from"]) if scored else self.folder) / prediction_name(image)
        return IdReader().read(path) if path.is_file() else None

    def uncertainty(self, image: str) -> np.ndarray | None:
        """Nats (H, W) float32, in 256 steps; None where it was not measured."""
        highest = self.images[image].uncertainty_max
        levels = None if highest is None else self._levels(image, "heatmap")
        return None if levels is None else nats_of_levels(levels, highest)

    def confidence(self, image: str) -> np.ndarray | None:
        """The mean probability of the predicted class (H, W) float32; None where there is no file."""
        levels = self._levels(image, "score") if self.metrics["uncertainty"] else None
        return None if levels is None else np.float32(levels) / LEVELS

    def _levels(self, image: str, kind: str) -> np.ndarray | None:
        stem = Path(image).with_suffix("")
        path = self.folder / stem.with_name(f"{stem.name}_{kind}.png")
        if not path.is_file():
            return None
        try:
            with open_image(path) as picture:
                if picture.mode not in ("L", "P"):
                    raise DataError(
                        f"{path}: is no map of levels, but of mode {picture.mode}; evaluate again"
                    )
                return np.asarray(picture)
        except UNREADABLE as error:
            raise DataError(f"{path}: not a readable image ({error}); evaluate again") from error


def read_result(folder: Path) -> Result:
    """What `evaluate_cityscapes.py` wrote to a folder.

    Raises:
        UserError: there is nothing of the kind, or it is damaged.
    """
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder}: holds no {METRICS}; name a folder that evaluate_cityscapes.py wrote")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        _check_metrics(metrics)
        result = Result(folder, metrics, {})
        path = folder / IMAGES
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            title = next(iter(metrics["classifiers"]))
            for row in csv.DictReader(file):
                scores = _image_scores(row, title)
                _require(scores.image not in result.images, f"{scores.image} stands there twice")
                result.images[scores.image] = scores
        _require(bool(result.images), "it holds no image")
    except (*DAMAGED, ArgumentTypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); evaluate again with "
            "evaluate_cityscapes.py"
        ) from error
    return result


def _check_metrics(metrics: dict) -> None:
    """Refuse what `engine.evaluation.summary` and `evaluate_cityscapes.py` would not have written."""
    names, classes = list(metrics["colors"]), len(metrics["colors"])
    _require(classes > 0 and list(metrics["iou"]) == names, "classes and colours differ")
    _require(all(map(_is_color, metrics["colors"].values())), "a colour is no RGB")
    _require(len(metrics["classifiers"]) > 0, "it holds no scores")
    for column in (metrics, *metrics["classifiers"].values()):
        numbers = [*column["iou"].values(), *column["means"].values(), column["pixel_accuracy"]]
        _require(list(column["iou"]) == names and all(map(_is_share, numbers)), "a score is none")
    means = list(metrics["means"])
    _require(len(means) > 0, "it holds no mean")
    _require(
        all(list(column["means"]) == means for column in metrics["classifiers"].values()), "means differ"
    )
    confusion = [*metrics["confusion"], metrics["void_predictions"]]
    _require(
        len(confusion) == classes + 1
        and all(type(row) is list and len(row) == classes for row in confusion)
        and all(type(count) is int and 0 <= count < 2**63 for row in confusion for count in row),
        "confusion and void_predictions are no counts of the classes",
    )
    texts = (metrics["restore_from"], *(metrics["data"][key] for key in DATA_KEYS))
    _require(all(type(text) is str for text in texts), "restore_from or data name nothing")
    _require(metrics["uncertainty"] in (None, *UNCERTAINTIES), "uncertainty is none that there is")
    flag_types.split(metrics["data"]["set"])


def _is_color(value: object) -> bool:
    return type(value) is list and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _is_share(value: object) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _require(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(problem)


def _image_scores(row: dict[str, str], title: str) -> ImageScores:
    """A row of `images.csv`, of one column of predictions."""
    keys = (f"accuracy {title}", f"mIoU {title}", "uncertainty_mean", "uncertainty_max")
    accuracy, miou, *uncertainty = (float(row[key]) if row[key] else None for key in keys)
    pixels = int(row["pixels"])
    _require(bool(row["image"]) and pixels >= 0, f"{row['image']} has {pixels} pixels")
    _require(_is_share(accuracy) and _is_share(miou), f"{row['image']}: a score is none")
    _require(
        all(v is None or 0 <= v < float("inf") for v in uncertainty),
        f"{row['image']}: an uncertainty is none",
    )
    return ImageScores(row["image"], pixels, (Scores(accuracy, miou),), *uncertainty)
