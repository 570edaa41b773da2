"""Intersection over union from one confusion matrix over a whole set."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from utils.parts import cached_parts
from utils.percentile import value_counts

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
    columns = classes + 1
    # Whole images are counted in the smallest integers that hold the number of a cell.
    dtype = torch.int16 if columns**2 <= torch.iinfo(torch.int16).max else torch.int64
    counts = torch.zeros(columns**2, dtype=torch.int64, device=labels.device)
    for part in cached_parts(labels, predictions):
        # Pixels without a known label go to one extra row, which spares picking the others out.
        rows, places = (_places(values, classes).to(dtype) for values in part)
        counts += _counts(rows.mul(columns).add_(places), columns**2)
    matrix = counts.view(columns, columns)[:classes]
    return matrix if void else matrix[:, :classes]


def _counts(values: Tensor, number: int) -> Tensor:
    if values.device.type == "cpu":  # where nothing waits, and bincount is several times as fast
        return torch.bincount(values, minlength=number)
    return value_counts(values, number)


def _places(values: Tensor, classes: int) -> Tensor:
    """The integers 0 ... C-1 as they are, C for all others."""
    if values.dtype == torch.uint8 and classes <= torch.iinfo(torch.uint8).max:
        return values.clamp(max=classes)
    return torch.where((values >= 0) & (values < classes), values, classes)


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
    return class_mean(values, range(len(values)))


def class_mean(values: Array, indices: Sequence[int]) -> float:
    """Mean of `values` (C,) over those of the classes `indices` that occur (not nan); nan where none does.

    It divides by the number of these, never by C: SYNTHIA's mIoU over 16 and mIoU* over 13 classes come
    from the IoU of one (19, 19) confusion matrix.
    """
    chosen = np.asarray(values)[list(indices)]
    return float("nan") if np.isnan(chosen).all() else float(np.nanmean(chosen))


def format_iou_columns(
    names: Sequence[str],
    columns: Mapping[str, Array],
    means: Mapping[str, Sequence[int]],
    pixels: Sequence[int] | None = None,
) -> str:
    """A table in percent: a row each class, a rule, a row each mean; a column each title.

    A class that no mean counts is in parentheses, one that does not occur is 'absent'.

    Args:
        names: of the C classes.
        columns: IoU (C,) by title, such as "1:0.5".
        means: class indices by name, such as "mIoU (16)", of which the row is the `class_mean`.
        pixels: labelled ones of each class, for two more columns: their number and share.
    """
    arrays = [np.asarray(values) for values in columns.values()]
    if any(array.shape != (len(names),) for array in arrays):
        raise ValueError(f"{len(names)} names, columns of {[array.shape for array in arrays]}")
    counted = set().union(*means.values())
    # Parentheses stand outside the columns of digits; room for them is left only where a class needs it.
    plain = ("", "") if counted.issuperset(range(len(names))) else (" ", " ")
    head = ["", *(title.join(plain) for title in columns)]
    body = [
        [name, *(_percent(array[index]).join(plain if index in counted else "()") for array in arrays)]
        for index, name in enumerate(names)
    ]
    foot = [
        [name, *(f"{100 * class_mean(array, indices):.2f}".join(plain) for array in arrays)]
        for name, indices in means.items()
    ]
    # All columns of IoU are as wide, those of counts as they need.
    longest = max(len(cell) for row in (head, *body, *foot) for cell in row[1:])
    widths = [max(longest, len("absent".join(plain)))] * len(arrays)
    if pixels is not None:
        counts = [f"{count:,}" for count in pixels]
        shares = [f"{100 * count / max(sum(pixels), 1):.2f} %" for count in pixels]
        head += ["pixels", "share"]
        body = [[*row, *cells] for row, *cells in zip(body, counts, shares, strict=True)]
        widths += [max(map(len, column)) for column in (["pixels", *counts], ["share", *shares])]
    width = max(len(row[0]) for row in (head, *body, *foot))
    lines = [
        f"{row[0]:<{width}}"
        + "".join(f"  {cell:>{size}}" for cell, size in zip(row[1:], widths, strict=False))
        for row in (head, *body, *foot)
    ]
    lines.insert(1 + len(body), "-" * len(lines[0].rstrip()))
    return "\n".join(line.rstrip() for line in lines)


def _percent(value: float) -> str:
    return "absent" if np.isnan(value) else f"{100 * value:.2f}"
