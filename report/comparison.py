"""Comparing evaluations of the same images: gains in mIoU, and the images that change most."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from engine.evaluation import LABELLED
from report.pictures import DASH, percent
from report.result_folder import COUNTS, Result, with_maps
from utils.errors import UserError

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 5000
BATCH = 20  # resamples in memory at a time; larger batches leave the cache
SEED = 0

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


def miou_gains(results: Results) -> dict[str, Gain]:
    """The gain in mIoU of each evaluation but the first over the first, by title.

    Raises:
        UserError: they differ in classes, images or numbers of labelled pixels.
    """
    (_, first), *others = results.items()
    for _, other in others:
        for what, mine, theirs in (
            ("classes", list(first.colors), list(other.colors)),
            ("images", set(first.images), set(other.images)),
            ("labelled pixels", first.pixels, other.pixels),
        ):
            if mine != theirs:
                folders = f"{first.folder} and {other.folder}"
                raise UserError(f"{folders} have different {what}; evaluate both on the same data")
    return {title: miou_gain(first, other) for title, other in others}


def miou_gain(first: Result, other: Result) -> Gain:
    """mIoU of `other` minus that of `first`, with a 95 % percentile interval by a paired bootstrap.

    Images are drawn with replacement, the same ones for both evaluations. The statistic is the set's mIoU,
    not a mean over images: pixel counts are summed over the drawn images, then IoU is taken per class.
    """
    mious = [result.metrics["miou"] for result in (first, other)]
    gain = Gain(None if None in mious else mious[1] - mious[0])
    if first.counts is None or other.counts is None:
        return gain
    rows = {name: row for row, name in enumerate(other.images)}
    counts = first.counts, other.counts[[rows[name] for name in first.images]]
    labelled = np.flatnonzero(counts[0][:, LABELLED].sum(1))
    if len(labelled) < 2:
        return gain
    from scipy.stats import bootstrap  # takes 0.5 s, which an evaluation without a page need not spend

    interval = bootstrap(
        [images[labelled] for images in counts],
        lambda first, other, axis: set_miou(other, axis) - set_miou(first, axis),
        paired=True,
        vectorized=True,
        axis=0,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE_LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Gain(gain.value, *map(float, interval))


def set_miou(counts: np.ndarray, axis: int) -> np.ndarray:
    """Mean over the occurring classes of the IoU from hits, labelled and predicted pixels (3, C, ...).

    `axis` holds the images and is summed over, as `scipy.stats.bootstrap` asks of a statistic.
    """
    hits, labelled, predicted = counts.sum(axis)
    with np.errstate(invalid="ignore"):  # 0 / 0 is nan
        return np.nanmean(hits / (labelled + predicted - hits), axis=0)


def gain_lines(results: Results, gains: Mapping[str, Gain]) -> list[str]:
    """mIoU and gain of each evaluation as text."""
    first, *_ = results
    lines = []
    for title, result in results.items():
        gain = f", {gains[title]} over {first}" if title in gains else ""
        lines.append(f"{title}: mIoU {percent(result.metrics['miou'])}{gain}")
    return [*lines, *interval_notes(results, gains)]


def interval_notes(results: Results, gains: Mapping[str, Gain]) -> list[str]:
    """What the brackets after the gains are, and which evaluations lack the counts for them."""
    notes = []
    if any(gain.low is not None for gain in gains.values()):
        notes.append("In brackets: 95 % confidence interval by a paired bootstrap over the images.")
    if lacking := [str(result.folder) for result in results.values() if result.counts is None]:
        notes.append(f"No confidence interval: no {COUNTS} in {', '.join(lacking)}; evaluate again.")
    return notes


def most_changed(results: Results, count: int) -> dict[str, list[str]]:
    """The `count` images whose pixel accuracy gains and loses most from the first to the last evaluation.

    Returns:
        The title of each group -> images, the largest change first.
    """
    (_, first), *_, (title, last) = results.items()
    change = {
        name: last.images[name].accuracy - first.images[name].accuracy
        for name in with_maps(list(results.values()))
        if first.images[name].pixels
    }
    ordered = sorted(change, key=change.get)
    return {
        f"Where “{title}” gains most": [name for name in reversed(ordered) if change[name] > 0][:count],
        f"Where “{title}” loses most": [name for name in ordered if change[name] < 0][:count],
    }
