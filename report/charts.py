"""Curves over the iterations of a training, as SVG for a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

Points = list[tuple[float, float]]

CHART_WIDTH, CHART_HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 286, 8, 154  # the frame of the curves in the chart
MAX_POINTS = 400  # of one curve: more than the pixels it is drawn on would only make the page heavy
SMOOTHING = 40  # the moving average spans the 1/40 of the curve on either side
LOG_RATIO = 30  # values further apart than this are drawn on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """A range of values and its ticks."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where the value lies on a line that the axis fills from `start` to `end`."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return start + (end - start) * (value - low) / (high - low)


def linear_axis(low: float, high: float, intervals: int = 4) -> Axis:
    """An axis from `low` to `high` with ticks at round numbers; a tick just above `high` is taken in."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / intervals
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= 0.999 * rough)
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step + 0.1) + 1)]
    return Axis(low, max([high, *ticks]), ticks)


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis: ticks at powers of ten, where the range is short at their threefold too."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 3) if len(decades) <= 4 else (1,)
    ticks = [m * 10.0**d for d in decades for m in factors if low <= m * 10.0**d <= high]
    return Axis(low, high, ticks[:: math.ceil(len(ticks) / 6)], log=True)


def value_axis(values: Sequence[float], linear: bool) -> Axis:
    """The axis that suits the values: logarithmic where none is negative and they lie far apart, else linear
    with zero on it.
    """
    low, high = min(values), max(values)
    smallest = min((value for value in values if value > 0), default=high)
    if not linear and low >= 0 and high > LOG_RATIO * smallest:
        return log_axis(smallest / 1.2, high * 1.2)
    return linear_axis(min(0.0, 1.05 * low), max(0.0, 1.05 * high))


def tick_label(value: float) -> str:
    """A short number: 0.05, 20, 2.5k, 1.5e-4."""
    if 0 < abs(value) < 0.00999:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    unit, letter = next(((u, c) for u, c in ((1e6, "M"), (1e3, "k")) if abs(value) >= u), (1, ""))
    return f"{value / unit:.4g}{letter}"


def smooth(points: Points) -> Points:
    """Moving average; at both ends its window is cut off."""
    sums = np.concatenate([[0.0], np.cumsum([value for _, value in points])])
    index, reach = np.arange(len(points)), len(points) // SMOOTHING
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(points))
    means = (sums[last] - sums[first]) / (last - first)
    return [(x, float(mean)) for (x, _), mean in zip(points, means, strict=True)]


def polyline(points: Points, x_axis: Axis, y_axis: Axis, css: str) -> str:
    """The curve of the points, thinned to what can be seen."""
    shown = points[:: math.ceil(len(points) / MAX_POINTS)]
    shown = shown if shown[-1] == points[-1] else [*shown, points[-1]]
    pairs = (f"{x_axis.place(x, LEFT, RIGHT):.1f},{y_axis.place(y, BOTTOM, TOP):.1f}" for x, y in shown)
    return f'<polyline class="{css}" points="{" ".join(pairs)}"/>'


def axes(x_axis: Axis, y_axis: Axis) -> str:
    """Grid lines, ticks and the words of both axes."""
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick, BOTTOM, TOP)
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_label(tick)}</text>')
    for tick in x_axis.ticks:
        x = x_axis.place(tick, LEFT, RIGHT)
        parts.append(f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{tick_label(tick)}</text>')
    parts.append(f'<line class="base" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{CHART_HEIGHT - 5}" text-anchor="middle">iteration</text>')
    return "".join(parts)


def line_chart(series: dict[str, Points], title: str, schedule: bool = False) -> tuple[str, bool]:
    """The SVG of a few curves over the iterations, and whether its value axis is logarithmic.

    A measured curve is smoothed, with the raw line behind; a logarithmic axis leaves out zeros. `series` must
    hold at least one point.
    """
    y_axis = value_axis([y for points in series.values() for _, y in points], linear=schedule)
    x_axis = linear_axis(0, max(x for points in series.values() for x, _ in points))
    raw, drawn = [], []
    for i, points in enumerate(series.values()):
        points = [point for point in points if point[1] > 0 or not y_axis.log]
        if points and not schedule:
            raw.append(polyline(points, x_axis, y_axis, f"raw s{i}"))
        if points:
            drawn.append(polyline(points if schedule else smooth(points), x_axis, y_axis, f"s{i}"))
    head = f'viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(title)}"'
    return f"<svg {head}>{axes(x_axis, y_axis)}{''.join(raw + drawn)}</svg>", y_axis.log
