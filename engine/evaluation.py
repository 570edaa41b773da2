"""Scoring a set: pixel counts of every image, what follows from them, and predictions read from files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import Adaptation, DataError, SegmentationDataset
from dataset.base import prediction_name
from dataset.images import IdReader, read_header
from dataset.labels import IGNORE, format_counts
from engine.restore import prediction_order
from utils.device import single_thread
from utils.distributed import Processes
from utils.metrics import class_mean, confusion_matrix, format_iou_columns, iou

HITS, LABELLED, PREDICTED = range(3)  # what is counted per image and class, in pixels


class Scored(NamedTuple):
    """One image, each (H, W): label, one prediction per column, and the uncertainty in nats if measured."""

    label: Tensor
    predictions: list[Tensor]
    uncertainty: Tensor | None


class PixelCounts:
    """Pixel counts of a set and of each image in it, for one or more columns of predictions.

    They stay on the device, so that `add` does not synchronise, and are small: three numbers per image,
    column and class.

    Args:
        images: number in the whole set, of which each process counts its own.
        titles: of the columns, such as weightings of the classifiers.
        classes: C.

    Attributes:
        matrices: (columns, C, C+1); rows are labels, the last column is predictions outside the classes.
        per_image: (images, columns, 3, C), the 3 being `HITS`, `LABELLED` and `PREDICTED`; of predictions
            only those on labelled pixels count.
    """

    def __init__(self, images: int, titles: Sequence[str], classes: int, device: torch.device):
        self.titles, self.classes = tuple(titles), classes
        columns = len(self.titles)
        self.matrices = torch.zeros(columns, classes, classes + 1, dtype=torch.int64, device=device)
        self.per_image = torch.zeros(images, columns, 3, classes, dtype=torch.int64, device=device)
        self._uncertainty = torch.zeros(images, 3, device=device)  # mean, maximum, 1 where it was measured

    @single_thread()
    def add(
        self, index: int, label: Tensor, predictions: Iterable[Tensor], uncertainty: Tensor | None = None
    ) -> None:
        """Count image `index` of the set; all (H, W), on the device.

        Args:
            label: integers; pixels outside 0 ... C-1 are not counted.
            predictions: one per column, integers.
            uncertainty: nats.
        """
        for column, prediction in enumerate(predictions):
            matrix = confusion_matrix(label, prediction, self.classes, void=True)
            self.matrices[column] += matrix
            predicted = matrix[:, : self.classes].sum(0)
            self.per_image[index, column] = torch.stack([matrix.diagonal(), matrix.sum(1), predicted])
        if uncertainty is not None:
            mean, maximum = uncertainty.mean(), uncertainty.max()
            self._uncertainty[index] = torch.stack([mean, maximum, torch.ones_like(mean)])

    def gather(self, processes: Processes) -> None:
        """Sum over all processes, and move the counts to the CPU."""
        for name in ("matrices", "per_image", "_uncertainty"):
            setattr(self, name, processes.all_reduce_sum(getattr(self, name)).cpu())

    def image_rows(self, names: Iterable[str], mean: Sequence[int]) -> list[dict]:
        """Scores of each image, as the columns of images.csv; after `gather`.

        `accuracy`: the share of its labelled pixels that is right. `mIoU`: the mean IoU over those classes of
        `mean` that occur in its label or, on labelled pixels, in its prediction. Both are None without a
        labelled pixel.

        Args:
            names: all images of the set, in its order.
            mean: the classes of the benchmark's mean.
        """
        hits, labelled, predicted = self.per_image.double().numpy().transpose(2, 0, 1, 3)
        with np.errstate(invalid="ignore"):  # 0 / 0 is nan
            ious = hits / (labelled + predicted - hits)
            accuracies = hits.sum(2) / labelled.sum(2)
        rows = []
        for index, name in enumerate(names):
            row = {"image": name, "pixels": int(labelled[index, 0].sum())}
            for column, title in enumerate(self.titles):
                row[f"accuracy {title}"] = number(accuracies[index, column].item())
                row[f"mIoU {title}"] = number(class_mean(ious[index, column], mean))
            *uncertainty, measured = self._uncertainty[index].tolist()
            row["uncertainty_mean"], row["uncertainty_max"] = uncertainty if measured else (None, None)
            rows.append(row)
        return rows


def summary(pair: Adaptation, counts: PixelCounts, gap: float | None) -> dict:
    """The result as JSON: fractions, null for a class that does not occur and for a mean of none.

    `iou`, `means`, `miou` (the first of the means), `pixel_accuracy`, `confusion` and `void_predictions`
    describe the first column; `classifiers` has IoU, means and pixel accuracy of each.
    """
    columns = {}
    for title, matrix in zip(counts.titles, counts.matrices, strict=True):
        means, by_class = mean_and_class_ious(pair, matrix)
        accuracy = number((matrix.diagonal().sum().double() / matrix.sum()).item())
        columns[title] = {"means": means, "pixel_accuracy": accuracy, "iou": by_class}
    first, matrix = columns[counts.titles[0]], counts.matrices[0]
    return {
        "miou": next(iter(first["means"].values())),
        **first,
        "classifiers": columns,
        "uncertainty_gap": None if gap is None else number(gap),
        "confusion": matrix[:, : counts.classes].tolist(),
        "void_predictions": matrix[:, counts.classes].tolist(),
        "colors": {name: list(color) for name, color in pair.colors.items()},
    }


def mean_and_class_ious(pair: Adaptation, matrix: Tensor) -> tuple[dict, dict]:
    """Each mean IoU and each class's IoU by name, as fractions; None if it does not occur."""
    values = iou(matrix)
    means = {name: number(class_mean(values, indices)) for name, indices in pair.means.items()}
    return means, dict(zip(pair.classes, map(number, values.tolist()), strict=True))


def number(value: float) -> float | None:
    """The value, None for nan, which JSON does not have."""
    return None if np.isnan(value) else value


def table(pair: Adaptation, counts: PixelCounts, result: dict, images: int) -> str:
    """The result as text: IoU per class and the means in percent, pixels and shares, pixel accuracy."""
    weightings = len(counts.titles) > 1
    columns = {
        title if weightings else "IoU": iou(matrix)
        for title, matrix in zip(counts.titles, counts.matrices, strict=True)
    }
    pixels = counts.matrices[0].sum(1).tolist()
    lines = [format_iou_columns(pair.classes, columns, pair.means, pixels)]
    if len(pair.means) > 1:
        sizes = ", ".join(f"{mean} over {len(indices)} classes" for mean, indices in pair.means.items())
        lines.append(f"{sizes}; in parentheses: in no mean")
    if weightings:
        lines.append("columns: weights of the primary and the auxiliary classifier")
    accuracies = [column["pixel_accuracy"] for column in result["classifiers"].values()]
    shown = ", ".join("absent" if share is None else f"{100 * share:.2f}" for share in accuracies)
    lines.append(f"pixel accuracy {shown}; {images} images, {sum(pixels):,} labelled pixels")
    if result["uncertainty_gap"] is not None:
        lines.append(f"uncertainty gap {result['uncertainty_gap']:.4f}")
    return "\n".join(lines)


def predictions_in_files(
    data: SegmentationDataset, folder: Path, processes: Processes, device: torch.device
) -> Iterator[Scored]:
    """Every image in `prediction_order` with its prediction in `folder`, train ids of the label's size."""
    paths = {name: folder / prediction_name(name) for name in data.names}
    missing = [path for path in paths.values() if not os.path.isfile(path)]
    if missing:
        raise DataError(f"{missing[0]}: no such prediction, {len(missing)} are missing; name their folder")
    for index in prediction_order(len(data), processes):
        name = data.names[index]
        label, prediction = data.train_ids(name), read_prediction(paths[name], len(data.colors))
        if label.shape != prediction.shape:
            sizes = f"{prediction.shape}, its label {label.shape} (height, width)"
            raise DataError(f"{paths[name]}: is {sizes}; write it in the label's size")
        prediction = torch.from_numpy(prediction.astype(np.int64)).to(device)
        yield Scored(torch.from_numpy(label).to(device), [prediction], None)


def read_prediction(path: Path, classes: int) -> np.ndarray:
    """Train ids (H, W) of a file; 255 for no class.

    Raises:
        DataError: it cannot be read, or holds other ids.
    """
    read_header(path)
    ids = IdReader().read(path)
    others = ids[((ids < 0) | (ids >= classes)) & (ids != IGNORE)]
    if others.size:
        right = f"0 to {classes - 1}, {IGNORE} for none"
        raise DataError(f"{path}: id {format_counts(others)} is no train id; write {right}")
    return ids
