"""Intersection over union from one confusion matrix over a whole set."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


def confusion_matrix(labels: Array, predictions: Array, classes: int, void: bool = False) -> Array:
    """Pixel counts, (C, C) int64: rows are labels, columns predictions.

    A pixel whose label is outside 0 ... C-1 counts nowhere. One whose prediction is has no place in (C, C)
    and is left out; with `void` it counts in one more column, (C, C+1), and so as a miss in `iou`, as the
    official Cityscapes evaluation does.

    Args:
        labels, predictions: integers of one shape; both tensors or both arrays, as is the result.
    """
    if isinstance(labels, np.ndarray):
        return confusion_matrix(*map(_tensor, (labels, predictions)), classes, void).numpy()
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {tuple(labels.shape)}, predictions {tuple(predictions.shape)}")
    labels, predictions = labels.flatten().long(), predictions.flatten().long()
    known = (labels >= 0) & (labels < classes)
    valid = (predictions >= 0) & (predictions < classes)
    columns = classes + 1
    # Pixels without a known label go to one extra row, which keeps the shapes, and so the GPU, free of waits.
    rows = torch.where(known, labels, classes)
    cells = rows * columns + torch.where(valid, predictions, classes)
    counts = torch.bincount(cells, minlength=(classes + 1) * columns).view(classes + 1, columns)[:classes]
    return counts if void else counts[:, :classes]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).astype(np.int64))


def iou(matrix: Array) -> Array:
    """Intersection over union of each class, (C,) float64, nan for a class in neither labels nor predictions.

    `matrix` is (C, C) or, with a column of predictions outside the classes, (C, C+1).
    """
    if isinstance(matrix, np.ndarray):
        return iou(torch.from_numpy(matrix)).numpy()
    matrix = matrix.double()
    hits = matrix.diagonal()
    union = matrix.sum(1) + matrix[:, : len(matrix)].sum(0) - hits
    return hits / union  # 0 / 0 is nan


def mean_iou(values: Array) -> float:
    """Mean over the classes that occur; nan where none does."""
    return float(np.nanmean(np.asarray(values))) if not np.all(np.isnan(np.asarray(values))) else float("nan")


def format_iou(names: Sequence[str], values: Array) -> str:
    """The classes' IoU and mIoU in percent, a line each."""
    width = max(map(len, names))
    rows = [
        f"{name:<{width}}  {'absent' if np.isnan(value) else f'{100 * value:6.2f}':>6}"
        for name, value in zip(names, np.asarray(values), strict=True)
    ]
    rule = "-" * (width + 8)
    return "\n".join([*rows, rule, f"{'mIoU':<{width}}  {100 * mean_iou(values):6.2f}"])
