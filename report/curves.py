"""Curves of a training, drawn from its `log.jsonl`."""

import io
import json
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


def charts(log: Path) -> list[Picture]:
    """One chart per panel with values in the log; a term that is zero throughout was switched off."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    drawn = []
    for title, keys in PANELS.items():
        curves = {}
        for key, name in keys.items():
            points = np.array([(record["iteration"], record[key]) for record in records if record.get(key)])
            if len(points):
                curves[f"{key} {name}"] = points
        if curves:
            drawn.append(draw(title, curves))
    return drawn


def draw(title: str, curves: dict[str, np.ndarray]) -> Picture:
    """Curves (name -> iterations and values (N, 2)) as an SVG picture, smoothed, the raw values behind."""
    values = np.concatenate(list(curves.values()))[:, 1]
    log = values.min() > 0 and values.max() > LOG_RATIO * values.min()
    parts = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    style = {"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 8} | dict.fromkeys(parts, GREY)
    with matplotlib.rc_context(style):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        for color, (name, points) in zip(COLORS, curves.items(), strict=False):
            x, y = points.T
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
