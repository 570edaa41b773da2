"""Confidence intervals for gains in mIoU, by a paired bootstrap over the images."""

import numpy as np
from scipy.stats import bootstrap

from engine.evaluation import LABELLED
from report.comparison import Gain, Results
from report.result_folder import Result

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 5000
BATCH = 20  # resamples in memory at a time; larger batches leave the cache
SEED = 0


def miou_gains(results: Results) -> dict[str, Gain]:
    """Each later evaluation's gain in mIoU over the first, by title."""
    (_, first), *others = results.items()
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
