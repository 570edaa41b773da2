"""Intersection over union, from one confusion matrix accumulated over a whole set."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from utils.device import single_thread
from utils.percentile import value_counts

Array = Tensor | np.ndarray


@single_thread()
def confusion_matrix(labels: Array, predictions: Array, classes: int, void: bool = False) -> Array:
    """Pixel counts, (C, C) int64: rows are labels, columns predictions.

    Pixels with a label outside 0 ... C-1 are ignored. A prediction outside 0 ... C-1 has no column in (C, C)
    and is dropped; with `void` it is counted in an additional column, (C, C+1), and thereby as a miss in
    `iou`, as in the official Cityscapes evaluation.

    Args:
        labels, predictions: integers of the same shape; two tensors or two arrays, which the result follows.
    """
    if isinstance(labels, np.ndarray):
        tensors = (torch.from_numpy(array.astype(np.int64)) for array in (labels, predictions))
        return confusion_matrix(*tensors, classes, void).numpy()
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {tuple(labels.shape)}, predictions {tuple(predictions.shape)}")
    columns = classes + 1  # all values outside the classes share the last row and column
    # Counting whole images is bound by memory: use the narrowest type that holds a cell's number.
    dtype = torch.int16 if columns**2 <= torch.iinfo(torch.int16).max else torch.int64
    rows, places = (_clip(values, classes).to(dtype) for values in (labels, predictions))
    cells = rows.mul_(columns).add_(places)
    counts = value_counts(cells, columns**2)
    return counts.view(columns, columns)[:classes, : columns if void else classes]


def _clip(values: Tensor, classes: int) -> Tensor:
    """Values outside 0 ... C-1 become C."""
    if values.dtype == torch.uint8 and classes <= torch.iinfo(torch.uint8).max:
        return values.clamp(max=classes)
    return torch.where((values >= 0) & (values < classes), values, classes)


def iou(matrix: Array) -> Array:
    """Intersection over union of each class, (C,) float64; nan for a class in neither labels nor predictions.

    Args:
        matrix: (C, C) or, with a column of predictions outside the classes, (C, C+1).
    """
    if isinstance(matrix, np.ndarray):
        return iou(torch.from_numpy(matrix)).numpy()
    matrix = matrix.double()
    hits = matrix.diagonal()
    union = matrix.sum(1) + matrix[:, : len(matrix)].sum(0) - hits
    return hits / union  # 0 / 0 is nan


def class_mean(values: Array, indices: Sequence[int]) -> float:
    """Mean of `values` (C,) over those classes in `indices` that occur (not nan); nan if none does.

    The divisor is the number of occurring classes, never C: SYNTHIA's mIoU over 16 and mIoU* over 13 classes
    are means of the same 19 values.
    """
    chosen = np.asarray(values)[list(indices)]
    return float("nan") if np.isnan(chosen).all() else float(np.nanmean(chosen))


def format_iou_columns(
    names: Sequence[str],
    columns: Mapping[str, Array],
    means: Mapping[str, Sequence[int]],
    pixels: Sequence[int] | None = None,
) -> str:
    """Table in percent: one row per class, then one per mean. Classes in no mean are in parentheses.

    Args:
        names: of the C classes.
        columns: title, such as "1:0.5", -> IoU (C,).
        means: name, such as "mIoU (16)", -> the classes averaged in its row.
        pixels: number of labelled pixels of each class (C,), for two more columns: number and share.
    """
    counted = set().union(*means.values())
    pad = "" if counted.issuperset(range(len(names))) else " "  # below a closing parenthesis
    rows = [["", *(title + pad for title in columns)]]
    for index, (name, *values) in enumerate(zip(names, *columns.values(), strict=True)):
        before, after = ("", pad) if index in counted else "()"
        rows.append([name, *(before + _percent(value) + after for value in values)])
    for name, indices in means.items():
        rows.append([name, *(_percent(class_mean(values, indices)) + pad for values in columns.values())])
    if pixels is not None:
        rows[0] += ["pixels", "share"]
        for row, count in zip(rows[1:], pixels, strict=False):
            row += [f"{count:,}", f"{100 * count / max(sum(pixels), 1):.2f} %"]
    return format_table(rows, rules=(1 + len(names),))


def format_class_shares(
    names: Sequence[str],
    pixels: Sequence[int],
    total: int,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Table of a labelled set: one row per class with its pixels and their share of all, one for the rest.

    Args:
        names: of the C classes.
        pixels: labelled as each class, (C,).
        total: all pixels, with and without a label.
        columns: title -> a cell per class, for more columns.
    """
    columns = columns or {}
    rows = [["", "pixels", "share", *columns]]
    for name, count, *cells in zip(names, pixels, *columns.values(), strict=False):
        rows.append([name, f"{count:,}", f"{100 * count / max(total, 1):.3f} %", *cells])
        rows[-1] += [] if count else ["no pixel"]
    rest = total - sum(pixels)
    rows.append(["without label", f"{rest:,}", f"{100 * rest / max(total, 1):.3f} %"])
    return format_table(rows, rules=(1 + len(names),))


def _percent(value: float | Tensor) -> str:
    return "absent" if np.isnan(float(value)) else f"{100 * value:.2f}"


def format_table(rows: Sequence[Sequence[str]], rules: Sequence[int] = (), left: int = 1) -> str:
    """Align columns of text. Rows may be short; the first `left` columns are flush left, the others right.

    Args:
        rules: numbers of the rows that have a horizontal rule above them.
    """
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = []
    for index, row in enumerate(rows):
        if index in rules:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = [f"{cell:{'<' if k < left else '>'}{widths[k]}}" for k, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
