"""What evaluations reached, as tables and bars of a page: mIoU, IoU of each class, confusions."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from dataset.labels import Colors
from report.page import bar, finite, note, percent, points_gained, scroll_box, swatch

HEAT_RGB = "0,114,178"
MARKED_SHARE = 0.005  # of a row; smaller confusions stay empty
STRONG_SHARE = 0.5  # from here on letters are white

Means = Mapping[str, float | None]


def headline(values: Means, words: str, gains: bool = False) -> str:
    """A fraction of each title as a bar and in percent, with `gains` its gain over the first one too."""
    reference = next(iter(values.values())) if gains else None
    rows = []
    for index, (title, value) in enumerate(values.items()):
        gain = f"<i>{points_gained(value, reference)} points</i>" if index else "<i>reference</i>"
        chart = bar(value or 0, reference, f"{title}: {percent(value)} %")
        name = f'<span class="name">{escape(title)}</span>'
        rows.append(f"<div>{name}{chart}<b>{percent(value)}</b>{gain if gains else '<i></i>'}</div>")
    return f'<div class="bars">{"".join(rows)}</div>' + note(words)


def iou_row(name: str, share: str, values: list[float | None], gain: bool, css: str = "") -> str:
    """One row of the table of IoU: the class, its share of the pixels, each column's value, the gain."""
    best = max((round(100 * value, 1) for value in values if value), default=None) if values[1:] else None
    cells = []
    for value in values:
        marked = " best" if value and round(100 * value, 1) == best else ""
        length = f"{100 * (value or 0):.2f}%"
        cells.append(f'<td class="iou{marked}" style="--iou:{length}">{percent(value)}</td>')
    last = f'<td class="soft">{points_gained(values[-1], values[0])}</td>' if gain else ""
    head = f'<th scope="row">{name}</th><td class="soft">{share}</td>'
    return f'<tr class="{css}">{head}{"".join(cells)}{last}</tr>'


def iou_table(
    columns: Mapping[str, Mapping], colors: Colors, confusion: Sequence[Sequence[int]], gain: bool = False
) -> str:
    """IoU of each class and the means; the best of a row is marked, an absent class is a dash.

    Args:
        columns: title -> a column of `metrics.json`: `means` and `iou`.
        confusion: pixels, rows are labels.
        gain: with a column of the last one's gain over the first.
    """
    pixels = np.array(confusion, dtype=float).sum(axis=1)
    shares = dict(zip(colors, pixels / max(pixels.sum(), 1), strict=False))
    one = len(columns) == 1
    heads = ["class", "share of pixels", *(("IoU",) if one else map(escape, columns))]
    heads += ["gain, last over first (points)"] if gain else []
    rows = [
        iou_row(escape(mean), "", [finite(c["means"].get(mean)) for c in columns.values()], gain, "total")
        for mean in next(iter(columns.values()))["means"]
    ]
    for name, rgb in colors.items():
        values = [finite(column["iou"].get(name)) for column in columns.values()]
        rows.append(iou_row(swatch(rgb) + escape(name), percent(shares.get(name) or None), values, gain))
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    css = "classes one" if one else "classes"
    table = f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    words = (
        "Intersection over union (IoU) and share of the labelled pixels, in percent. A dash is a class that "
        "does not occur."
    )
    if not one:
        words += " The best of a row is bold."
    return note(words) + scroll_box(table, "IoU of each class")


def confusion_table(
    confusion: Sequence[Sequence[int]], names: Sequence[str], void: Sequence[int] = ()
) -> str:
    """The confusion matrix in percent of each row as a heat table; the row of an absent class is empty.

    Args:
        confusion: pixels, rows are labels.
        void: of each row the pixels that are predicted as no class; shown where there are any.
    """
    columns = list(names)
    counts = [list(row) for row in confusion]
    if any(void):
        columns.append("no class")
        counts = [[*row, missed] for row, missed in zip(counts, void, strict=True)]
    rows = []
    for name, row in zip(names, counts, strict=False):
        total, cells = sum(row), []
        for share in (count / total if total else 0.0 for count in row):
            css = " class=strong" if share > STRONG_SHARE else ""
            text = f"{100 * share:.0f}" if share >= MARKED_SHARE else ""
            cells.append(f'<td{css} style="background:rgba({HEAT_RGB},{share:.3f})">{text}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    head = f"<thead><tr><th>label ↓ predicted →</th>{heads}</tr></thead>"
    return scroll_box(f'<table class="heat">{head}<tbody>{"".join(rows)}</tbody></table>', "confusion matrix")
