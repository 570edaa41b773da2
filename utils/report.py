"""The page that shows what the runs of an experiment reached: one HTML file, no scripts, no outside files.

It reads what the other scripts leave behind: `metrics.json` and the pictures of an evaluation, `log.jsonl`
of a training. Names and titles come from the user's files, so every text passes through `html.escape`. The
look is in `report.css` beside this file and is copied into the page.
"""

import base64
import datetime
import io
import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

from utils.files import write_whole

Colors = dict[str, tuple[int, int, int]]
Points = list[tuple[float, float]]

CSS = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
IMAGE_WIDTH = 640  # pixels of an embedded picture: twice its width on a desktop page, for fine screens
JPEG_QUALITY = 85
SMALL_WIDTH = 320  # a label map narrower than this is drawn enlarged, with sharp pixels
ERROR_COLORS = {"right": (226, 230, 233), "wrong": (213, 94, 0), "not labelled": (139, 148, 156)}
HEAT_RGB = "0,114,178"
DASH = "–"

CHART_WIDTH, CHART_HEIGHT = 300, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 286, 8, 154  # the frame of the curves in the chart
MAX_POINTS = 400  # of one curve: more than the pixels it is drawn on would only make the page heavy
SMOOTHING = 40  # the moving average spans the 1/40 of the curve on either side
LOG_RATIO = 30  # values further apart than this are drawn on a logarithmic axis


@dataclass(frozen=True)
class Run:
    """One evaluated method: its title, the folder of its evaluation, the folder of its training."""

    title: str
    result: Path
    snapshot: Path


@dataclass(frozen=True)
class Example:
    """One target image: its name as in `metrics.json`, its file and its label in colours (RGB)."""

    name: str
    image: Path
    label_color: Image.Image


@dataclass(frozen=True)
class Panel:
    """One chart of a training: which values of the log it draws, and the words for them."""

    title: str
    unit: str
    keys: dict[str, str]
    schedule: bool = False  # chosen, not measured: drawn without smoothing, on a linear axis


PANELS = (
    Panel("Segmentation losses", "nats", {"seg1": "auxiliary", "seg2": "primary", "val": "target labels"}),
    Panel(
        "Target terms",
        "adv: least squares; others: nats",
        {"adv1": "auxiliary", "adv2": "primary", "kl": "memory", "me": "entropy"},
    ),
    Panel("Discriminators", "least squares", {"D1": "auxiliary", "D2": "primary"}),
    Panel("Learning rates", "per update", {"lr": "network", "lr_D": "discriminators"}, schedule=True),
)


def finite(value: object) -> float | None:
    """The value as a float; None where it is missing, not a number, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def read_log(path: Path) -> dict[int, dict]:
    """The records of a `log.jsonl` by iteration, in order; empty where there is no file.

    A resumed training logs some iterations again, the later record counts. A line that is no JSON object (the
    last one of a training that was killed) is passed over.
    """
    records = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        iteration = finite(record.get("iteration")) if isinstance(record, dict) else None
        if iteration is not None:
            records[int(iteration)] = record
    return dict(sorted(records.items()))


def read_image(path: Path) -> Image.Image | None:
    """The image as RGB, or None where the file does not exist."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return image.convert("RGB")


def error_map(label: Image.Image, guess: Image.Image, colors: Colors) -> tuple[Image.Image, float | None]:
    """Where a coloured prediction differs from the coloured label, and the share of wrong pixels.

    A pixel whose label colour belongs to no class is not labelled (255) and does not count; the share is None
    where no pixel is labelled.
    """
    if guess.size != label.size:
        guess = guess.resize(label.size, Image.Resampling.NEAREST)
    # One integer a pixel, so that comparing colours is comparing numbers.
    code = np.array([65536, 256, 1])
    truth, predicted = (np.asarray(image.convert("RGB")) @ code for image in (label, guess))
    labelled = np.isin(truth, np.array([*colors.values()]) @ code)
    wrong = labelled & (truth != predicted)
    palette = np.array([*ERROR_COLORS.values()], dtype=np.uint8)
    picture = Image.fromarray(palette[np.where(labelled, wrong.astype(int), 2)])
    return picture, float(wrong.sum() / labelled.sum()) if labelled.any() else None


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


def bar(value: float, reference: float, title: str) -> str:
    """The SVG of a fraction as a bar on a track that stands for 100 %, with a mark at the reference."""
    mark = f"{100 * reference:.2f}%"
    return (
        f'<svg role="img" aria-label="{escape(title)}"><rect class="track" width="100%" height="100%"/>'
        f'<rect class="bar" width="{100 * value:.2f}%" height="100%"/>'
        f'<line class="mark" x1="{mark}" x2="{mark}" y1="0" y2="100%"/></svg>'
    )


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def percent(fraction: float | None) -> str:
    return DASH if fraction is None else f"{100 * fraction:.1f}"


def points_gained(value: float | None, reference: float | None) -> str:
    """The difference of two fractions in percentage points, with its sign."""
    if value is None or reference is None:
        return DASH
    return f"{100 * (value - reference):+.1f}".replace("-", "−")


def swatch(rgb: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:rgb({int(rgb[0])},{int(rgb[1])},{int(rgb[2])})"></span>'


def legend(colors: Colors) -> str:
    items = "".join(f"<li>{swatch(rgb)}{escape(name)}</li>" for name, rgb in colors.items())
    return f'<ul class="legend">{items}</ul>'


def scroll_box(table: str, title: str) -> str:
    """A table that scrolls sideways in its own box, also by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">{table}</div>'


def figure(image: Image.Image | None, caption: str, alt: str, photo: bool = False) -> str:
    """An embedded picture with its caption: JPEG for a photo, PNG with exact colours for a map."""
    words = f"<figcaption>{escape(caption)}</figcaption>"
    if image is None:
        return f'<figure><div class="none note">no image</div>{words}</figure>'
    if image.width > IMAGE_WIDTH:
        size = (IMAGE_WIDTH, max(1, round(image.height * IMAGE_WIDTH / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    kind, css = ("jpeg", "photo") if photo else ("png", "small" if image.width <= SMALL_WIDTH else "map")
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, quality=JPEG_QUALITY, optimize=True)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    size = f'width="{image.width}" height="{image.height}"'
    return f'<figure><img class="{css}" {size} alt="{escape(alt)}" src="{source}">{words}</figure>'


def headline(runs: list[Run], metrics: list[dict]) -> str:
    """mIoU of each run as a bar, its value, and its gain over the first run."""
    values = [finite(m.get("miou")) for m in metrics]
    rows = []
    for i, (run, value) in enumerate(zip(runs, values, strict=True)):
        gain = points_gained(value, values[0]) + " points" if i else "reference"
        chart = bar(value or 0, values[0] or 0, f"{run.title}: mIoU {percent(value)} %")
        name = f'<span class="name">{escape(run.title)}</span>'
        rows.append(f"<div>{name}{chart}<b>{percent(value)}</b><i>{gain}</i></div>")
    images = " / ".join(dict.fromkeys(str(m.get("images", "?")) for m in metrics))
    return f'<div class="bars">{"".join(rows)}</div>' + note(
        f"Mean intersection over union (mIoU) in percent on {images} labelled target images. "
        "A full track is 100 %; the line across the bars is at the first run."
    )


def iou_row(name: str, share: str, values: list[float | None], css: str = "") -> str:
    """One row of the table of IoU: the class, its share of the pixels, each run's value, the gain."""
    best = max((round(100 * value, 1) for value in values if value), default=None) if values[1:] else None
    cells = "".join(
        f"<td{' class=best' if value and round(100 * value, 1) == best else ''}>{percent(value)}</td>"
        for value in values
    )
    gain = f'<td class="soft">{points_gained(values[-1], values[0])}</td>' if len(values) > 1 else ""
    return f'<tr class="{css}"><th scope="row">{name}</th><td class="soft">{share}</td>{cells}{gain}</tr>'


def iou_table(runs: list[Run], metrics: list[dict], colors: Colors) -> str:
    """IoU of each class over the runs; the best of a row is marked, an absent class is a dash."""
    pixels = np.array(metrics[-1].get("confusion") or np.zeros((len(colors), 1)), dtype=float).sum(axis=1)
    shares = dict(zip(colors, pixels / max(pixels.sum(), 1), strict=False))
    heads = ["class", "share of labelled pixels", *(escape(run.title) for run in runs)]
    heads += ["gain, last over first (points)"] if len(runs) > 1 else []
    rows = [iou_row("mean", "", [finite(m.get("miou")) for m in metrics], "total")]
    for name, rgb in colors.items():
        values = [finite(m.get("iou", {}).get(name)) for m in metrics]
        rows.append(iou_row(swatch(rgb) + escape(name), percent(shares.get(name) or None), values))
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    words = "IoU in percent: the best of a row is bold on a tint, a dash is a class that does not occur."
    return note(words) + scroll_box(table, "IoU of each class")


def example_row(example: Example, runs: list[Run], colors: Colors) -> str:
    """A target image, its label, every prediction, and where the last run is unsure and where it is wrong."""
    name, last = example.name, runs[-1]
    cells = [
        figure(read_image(example.image), "Target image", f"target image {name}", photo=True),
        figure(example.label_color, "Label", f"label of {name}"),
    ]
    for run in runs:
        prediction, errors, wrong = read_image(run.result / f"{name}_color.png"), None, ""
        if prediction is not None:
            errors, share = error_map(example.label_color, prediction, colors)
            wrong = "" if share is None else f": {percent(share)} % wrong"
        cells.append(figure(prediction, run.title + wrong, f"prediction of {run.title} for {name}"))
    heat = read_image(last.result / f"{name}_heatmap.png")
    cells += [
        figure(heat, f"Uncertainty, {last.title}", f"uncertainty of {last.title} for {name}", photo=True),
        figure(errors, f"Errors, {last.title}", f"wrong pixels of {last.title} for {name}"),
    ]
    return f'<h3 class="file">{escape(name)}</h3><div class="grid">{"".join(cells)}</div>'


def domain(title: str, pairs: Iterable[tuple[str, Path, Image.Image]]) -> str:
    """One domain's column: images, each beside its label."""
    cells = (
        figure(read_image(path), name, f"{title} image {name}", photo=True)
        + figure(label, "label", f"{title} label of {name}")
        for name, path, label in pairs
    )
    return f"<div><h3>{title}</h3>{''.join(f'<div class=grid>{cell}</div>' for cell in cells)}</div>"


def domains(source: Sequence[tuple[Path, Image.Image]], examples: list[Example]) -> str:
    """Source and target side by side, as many of the one as of the other where there are enough."""
    left = domain("Source", ((path.name, path, label) for path, label in source))
    target = ((Path(e.name).name, e.image, e.label_color) for e in examples[: len(source)])
    return f'<div class="domains">{left}{domain("Target", target)}</div>'


def panel_chart(panel: Panel, records: dict[int, dict]) -> str:
    """One chart of a training with its key; a term that is zero throughout was off and is not drawn."""
    series = {}
    for key in panel.keys:
        values = ((iteration, finite(record.get(key))) for iteration, record in records.items())
        points = [(float(x), y) for x, y in values if y is not None]
        if any(y for _, y in points):
            series[key] = points
    if not series:
        return f'<div class="chart"><h4>{panel.title}</h4><small>not used in this run</small></div>'
    svg, log = line_chart(series, f"{panel.title} over the iterations", panel.schedule)
    keys = "".join(f'<li class="s{i}">{key} {panel.keys[key]}</li>' for i, key in enumerate(series))
    words = f"<h4>{panel.title}</h4><small>{panel.unit}{', log scale' if log else ''}</small>"
    return f'<div class="chart">{words}<ul class="keys">{keys}</ul>{svg}</div>'


def training(run: Run) -> str:
    """The charts of one run."""
    records = read_log(run.snapshot / "log.jsonl")
    charts = "".join(panel_chart(panel, records) for panel in PANELS)
    body = f'<div class="grid">{charts}</div>' if records else note("No training log was found.")
    return f"<h3>{escape(run.title)}</h3>{body}"


def confusion_table(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The confusion matrix in percent of each row as a heat table; the row of an absent class is empty."""
    rows = []
    for name, counts in zip(names, confusion, strict=False):
        total, cells = sum(counts), []
        for share in (count / total if total else 0.0 for count in counts):
            css = " class=strong" if share > 0.5 else ""
            text = f"{100 * share:.0f}" if share >= 0.005 else ""
            cells.append(f'<td{css} style="background:rgba({HEAT_RGB},{share:.3f})">{text}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    head = f"<thead><tr><th>label ↓ predicted →</th>{heads}</tr></thead>"
    return scroll_box(f'<table class="heat">{head}<tbody>{"".join(rows)}</tbody></table>', "confusion matrix")


def footer(commands: list[str]) -> str:
    """How the page was made: the commands, the versions, the time."""
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "numpy", "pillow"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:  # the page itself needs only the last two
            continue
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    made = f"<p>Made {time} with {escape(', '.join(versions))} on {escape(platform.machine())}.</p>"
    return f"<footer>{''.join(f'<pre>{escape(command)}</pre>' for command in commands)}{made}</footer>"


def page(title: str, intro: str, sections: dict[str, str]) -> str:
    """The whole document. The policy in its head forbids scripts and requests, whatever a name may hold."""
    paragraphs = [text.strip() for text in intro.split("\n\n") if text.strip()]
    prose = "".join(f"<p>{escape(text)}</p>" for text in paragraphs if not text.startswith("$ "))
    links = "".join(f'<a href="#part{i}">{name}</a>' for i, name in enumerate(sections))
    parts = (f"<h2>{name}</h2>{body}</section>" for name, body in sections.items())
    bodies = "".join(f'<section id="part{i}">{part}' for i, part in enumerate(parts))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{prose}<nav>{links}</nav></header><main>{bodies}</main>"
        f"{footer([text for text in paragraphs if text.startswith('$ ')])}</body></html>\n"
    )


def write_report(
    path: Path,
    *,
    title: str,
    intro: str,
    runs: list[Run],
    examples: list[Example],
    colors: Colors,
    source_examples: Sequence[tuple[Path, Image.Image]] = (),
) -> None:
    """Write the page of the runs to `path`, whole or not at all.

    The first run is what the others are compared with; the last one's uncertainty, errors and confusion are
    shown. `intro` is plain text, its paragraphs parted by blank lines; one that starts with `$ ` holds
    commands and goes to the foot. `colors` maps each class to its RGB in the order of the train ids;
    `source_examples` are (image file, coloured label) of the source domain. Raises ValueError without runs,
    FileNotFoundError where a run was not evaluated (no `metrics.json`).
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    metrics = [json.loads((run.result / "metrics.json").read_text(encoding="utf-8")) for run in runs]
    sections = {"Result": headline(runs, metrics), "IoU of each class": iou_table(runs, metrics, colors)}
    if examples:
        words = note(
            "Captions give the share of the labelled pixels that are wrong. Uncertainty is the divergence of "
            "the two classifiers, log(1 + 10 KL), scaled to the maximum of each image."
        )
        rows = "".join(example_row(example, runs, colors) for example in examples)
        sections["Examples"] = words + legend(colors) + legend(ERROR_COLORS) + rows
    if source_examples:
        words = "The target's labels take no part in training: they serve to evaluate, and here to compare."
        sections["The two domains"] = note(words) + domains(source_examples, examples)
    words = "Moving averages, logged values pale. Terms that are off are left out; val is not trained on."
    sections["Training"] = note(words) + "".join(training(run) for run in runs)
    if metrics[-1].get("confusion"):
        words = f"{runs[-1].title}: how the pixels of each class are predicted, in percent of the row."
        sections["Confusion"] = note(words) + confusion_table(metrics[-1]["confusion"], list(colors))
    html = page(title, intro, sections)
    # A file name may hold bytes that are no text; they become question marks.
    write_whole(path, lambda aside: aside.write_text(html, encoding="utf-8", errors="replace"))
