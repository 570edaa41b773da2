"""Curves of a training, drawn from its `log.jsonl`."""

import io
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from report.pictures import Picture, data_uri

SIZE = (3.4, 2.5)  # inches
SMOOTHING = 40  # the moving average spans 1/40 of the curve on either side
LOG_RATIO = 30  # values further apart than this are drawn on a logarithmic axis
# Okabe and Ito's colours, and a grey: both readable on a light page and on a dark one.
COLORS = ("#1f87c9", "#e0702a", "#0aa37a", "#c0699b")
GREY = "#808a93"
PANELS = {  # title and unit -> key in the log -> its name in the legend
    "Segmentation losses (nats)": {"seg1": "auxiliary", "seg2": "primary", "val": "target labels"},
    "Target terms (adv: by --adversarial; others: nats)": {
        "adv1": "auxiliary",
        "adv2": "primary",
        "kl": "memory",
        "me": "entropy",
    },
    "Cosine of the classifiers' weights, plus 1": {"weight": "--lambda-weight"},
    "Pseudo labels of the teacher (nats)": {
        **{"mix1": "mixed, auxiliary", "mix2": "mixed, primary"},
        **{"masked1": "masked, auxiliary", "masked2": "masked, primary"},
    },
    "Share of sure pixels": {"share": "of the target"},
    "Feature distance": {"fd": "on things"},
    "Contrasts (nats)": {"pixel": "pixels", "patch": "patches"},
    "Discriminators (by --adversarial)": {"D1": "auxiliary", "D2": "primary"},
}


def read_log(path: Path) -> dict[str, dict[int, float]]:
    """The finite values of a `log.jsonl`, key -> iteration -> value in the order of iterations.

    A resumed training repeats iterations; the later record counts. Lines that are not JSON objects, such as
    the last one of a killed training, are skipped.
    """
    values: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            iteration = int(record["iteration"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        for key, value in record.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                values.setdefault(key, {})[iteration] = value
    return {key: dict(sorted(curve.items())) for key, curve in values.items()}


def charts(log: Path) -> list[Picture]:
    """One chart per panel with values in the log; a term that is zero throughout was switched off."""
    values = read_log(log)
    drawn = []
    for title, keys in PANELS.items():
        curves = {f"{key} {name}": values.get(key, {}) for key, name in keys.items()}
        if curves := {name: curve for name, curve in curves.items() if any(curve.values())}:
            drawn.append(draw(title, curves))
    return drawn


def draw(title: str, curves: dict[str, dict[int, float]]) -> Picture:
    """Curves (name -> iteration -> value) as an SVG picture, smoothed, with the raw values behind."""
    values = np.array([value for curve in curves.values() for value in curve.values()])
    positive = values[values > 0]
    log = values.min() >= 0 and positive.max() > LOG_RATIO * positive.min()
    parts = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    style = {"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 8} | dict.fromkeys(parts, GREY)
    with matplotlib.rc_context(style):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
            x, y = np.array(list(curve.items())).T
            x, y = (x[y > 0], y[y > 0]) if log else (x, y)
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.35)
            axes.plot(x, moving_average(y, len(y) // SMOOTHING), color=color, linewidth=1.5, label=name)
        if log:
            axes.set_yscale("log")
        elif values.min() >= 0:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("iteration")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4, color=GREY, alpha=0.4)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=1.4)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    alt = f"{title} over the iterations"
    return Picture(f"{title}, logarithmic" if log else title, alt, data_uri("svg+xml", file.getvalue()))


def moving_average(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over `reach` neighbours on either side; the window is cut off at both ends."""
    window = np.ones(2 * reach + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
