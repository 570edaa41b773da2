"""Comparing evaluations of the same images: gains in mIoU, and the images that change most."""

from collections.abc import Mapping
from typing import NamedTuple

from report.pictures import DASH, percent
from report.result_folder import COUNTS, Result
from utils.errors import UserError

Results = Mapping[str, Result]  # title -> evaluation; the others are compared with the first


class Gain(NamedTuple):
    """Difference of two mIoUs (fractions), and its confidence interval if the images' counts are known."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        text = f"{points(self.value)} points"
        return text if self.low is None else f"{text} [{points(self.low)} to {points(self.high)}]"


def points(value: float | None, reference: float | None = 0.0) -> str:
    """The difference of two fractions in percentage points, with its sign."""
    if value is None or reference is None:
        return DASH
    return f"{100 * (value - reference):+.1f}".replace("-", "−")


def check_comparable(results: Results) -> None:
    """Raise UserError unless all have the same classes, images and numbers of labelled pixels."""
    first, *others = results.values()
    for other in others:
        for what, mine, theirs in (
            ("classes", list(first.colors), list(other.colors)),
            ("images", set(first.images), set(other.images)),
            ("labelled pixels", first.pixels, other.pixels),
        ):
            if mine != theirs:
                raise UserError(
                    f"{first.folder} and {other.folder} have different {what}; evaluate both on the same data"
                )


def gain_lines(results: Results, gains: Mapping[str, Gain]) -> list[str]:
    """mIoU and gain of each evaluation as text."""
    first, *_ = results
    lines = []
    for title, result in results.items():
        gain = f", {gains[title]} over {first}" if title in gains else ""
        lines.append(f"{title}: mIoU {percent(result.metrics['miou'])}{gain}")
    return [*lines, "[95 % interval by a paired bootstrap over the images]", *missing_counts(results)]


def missing_counts(results: Results) -> list[str]:
    """A hint for each evaluation that has no interval because it was written before there were counts."""
    return [
        f"{result.folder} holds no {COUNTS}; evaluate again for a confidence interval."
        for result in results.values()
        if result.counts is None
    ]


def most_changed(results: Results, count: int) -> tuple[list[str], list[str]]:
    """The `count` images whose pixel accuracy gains and loses most from the first to the last evaluation."""
    first, *_, last = (result.images for result in results.values())
    change = {n: last[n].accuracy - scores.accuracy for n, scores in first.items() if scores.pixels}
    ordered = sorted(change, key=change.get)
    return (
        [name for name in reversed(ordered) if change[name] > 0][:count],
        [name for name in ordered if change[name] < 0][:count],
    )
