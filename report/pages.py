"""The pages: one HTML file each, without scripts or requests, from the templates beside this file.

Names and titles come from users' files; Jinja2 escapes everything, and the policy in the page's head forbids
scripts and requests.
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dataset import SegmentationDataset
from report import pictures
from report.comparison import Gain, Results, interval_notes, points
from report.pictures import CHANGE_COLORS, ERROR_COLORS, NO_CLASS, Example, percent, read_example
from report.result_folder import ImageScores, Result, labelled_pixels, with_maps
from utils.atomic import atomic_write
from utils.pictures import bar_colors
from utils.uncertainty import UNCERTAINTIES

RAMP_COLORS = 12  # of a colour bar; the browser interpolates


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"percent": percent, "points": points}
TEMPLATES.globals["ramp"] = ",".join("rgb({},{},{})".format(*color) for color in bar_colors(RAMP_COLORS))


def write_page(path: Path, template: str, **content) -> None:
    """Fill a template and write the page, whole or not at all."""
    made = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    html = TEMPLATES.get_template(template).render(made=made, titles=[], **content)
    # File names may hold bytes that are not text; they become question marks.
    atomic_write(path, lambda tmp: tmp.write_text(html, encoding="utf-8", errors="replace"))


def write_evaluation(path: Path, result: Result, data: SegmentationDataset, images: int) -> None:
    """The page of one evaluation, with its `images` worst and best images.

    Raises:
        UserError, DataError: a file that it shows is damaged, or the page cannot be written.
    """
    metrics, columns = result.metrics, result.metrics["classifiers"]
    bars = metrics["means"] | {"pixel accuracy": metrics["pixel_accuracy"]}
    if len(columns) > 1:  # the first mean of each weighting
        bars = {title: next(iter(column["means"].values())) for title, column in columns.items()}
    worst, best = worst_and_best({name: result.images[name] for name in with_maps([result])}, images)
    end = pictures.common_end([result], [*worst, *best])
    intro = (
        f"{metrics['restore_from']} ({metrics['data']['source']} → {metrics['data']['target']}): predictions "
        f"for {len(result.images):,} images, compared with their labels in {len(result.colors)} classes, "
        f"{sum(result.pixels.values()):,} labelled pixels."
    )
    write_page(
        path,
        "evaluation.html.j2",
        title=f"Evaluation: {result.folder.name}",
        intro=intro,
        metrics=metrics,
        bars=bars,
        rows=iou_rows(list(columns.values()), result),
        confusion=confusion(result),
        uncertainty=UNCERTAINTIES.get(metrics["uncertainty"]),
        colors=result.colors | NO_CLASS,
        errors=ERROR_COLORS,
        groups={
            title: [_evaluated(result, read_example(data, name), end) for name in names]
            for title, names in (("Worst images", worst), ("Best images", best))
            if names
        },
    )


def worst_and_best(images: Mapping[str, ImageScores], count: int) -> tuple[list[str], list[str]]:
    """The `count` images with the lowest and with the highest pixel accuracy, the extremes first.

    If there are fewer, each is in one list; images without a labelled pixel are in none.
    """
    scored = sorted((n for n in images if images[n].pixels), key=lambda name: images[name].accuracy)
    worst = min(count, (len(scored) + 1) // 2)
    best = min(count, len(scored) // 2)
    return scored[:worst], scored[: len(scored) - best - 1 : -1]


def _evaluated(result: Result, example: Example, end: float) -> dict:
    """An image with everything that is known about its prediction."""
    prediction = result.prediction(example.name)
    pictures.check_map(example, prediction)
    shown = [
        *pictures.source_pictures(example, result.colors),
        *pictures.prediction_pictures(result, example, prediction, "Prediction"),
    ]
    if result.metrics["uncertainty"]:
        shown.append(pictures.uncertainty_picture(result, example, end))
        shown.append(pictures.confidence_picture(result, example))
    mistakes = pictures.mistakes(example.label, prediction, list(result.colors))
    return dict(name=example.name, scores=result.images[example.name], mistakes=mistakes, pictures=shown)


def write_comparison(
    path: Path,
    results: Results,
    gains: Mapping[str, Gain],
    data: SegmentationDataset,
    groups: Mapping[str, Sequence[str]],
    template: str = "comparison.html.j2",
    **content,
) -> None:
    """The page of several evaluations side by side, as in Rectifying's figure 4.

    Args:
        groups: title of a section -> the images in it.
        template: one that extends `comparison.html.j2`.
        content: what else that template shows; `title` and `intro` replace the page's own.

    Raises:
        UserError, DataError: a file that the page shows is damaged, or the page cannot be written.
    """
    first, *_, last = results
    latest = results[last]
    end = pictures.common_end(results.values(), [name for group in groups.values() for name in group])
    content = {
        "title": "Comparison: " + ", ".join(results),
        "intro": f"{len(results)} evaluations of the same {len(data):,} images.",
    } | content
    write_page(
        path,
        template,
        mious={title: result.metrics["miou"] for title, result in results.items()},
        gains={first: "reference"} | gains,
        notes=interval_notes(results, gains),
        images=len(latest.images),
        rows=iou_rows([result.metrics for result in results.values()], latest),
        confusion=confusion(latest),
        first=first,
        last=last,
        uncertain=any(result.metrics["uncertainty"] for result in results.values()),
        colors=latest.colors | NO_CLASS,
        changes=CHANGE_COLORS,
        groups={
            title: [_side_by_side(results, read_example(data, name), end) for name in names]
            for title, names in groups.items()
            if names
        },
        **content,
    )


def _side_by_side(results: Results, example: Example, end: float) -> dict:
    """Image, label and change; then prediction, uncertainty and errors of each evaluation."""
    columns, predictions, accuracies = [], [], []
    for title, result in results.items():
        predictions.append(result.prediction(example.name))
        accuracies.append(result.images[example.name].accuracy)
        pictures.check_map(example, predictions[-1])
        shown, errors = pictures.prediction_pictures(result, example, predictions[-1], title)
        uncertain = result.metrics["uncertainty"]
        column = [pictures.uncertainty_picture(result, example, end)] if uncertain else []
        columns.append([shown, *column, errors])
    colors = result.colors
    change = pictures.change_map(example.label, predictions[0], predictions[-1], len(colors))
    caption = f"Change: {points(accuracies[-1], accuracies[0])} points"
    changed = pictures.embed(change, caption, f"change of the prediction of {example.name}")
    source = [*pictures.source_pictures(example, colors), changed]
    return {"name": example.name, "columns": [source, *columns]}


def iou_rows(columns: Sequence[Mapping], result: Result) -> list[dict]:
    """The table of IoU: means and pixel accuracy first; `best` is the largest of a row as text.

    Args:
        columns: hold `means`, `pixel_accuracy` and `iou`.
    """
    pixels = labelled_pixels(result.metrics)
    shares = [count / sum(pixels) if count else None for count in pixels]
    values = [(name, None, None, [c["means"][name] for c in columns]) for name in result.metrics["means"]]
    values.append(("pixel accuracy", None, None, [column["pixel_accuracy"] for column in columns]))
    for name, share in zip(result.colors, shares, strict=True):
        values.append((name, result.colors[name], share, [column["iou"][name] for column in columns]))
    rows = []
    for name, rgb, share, ious in values:
        best = percent(max(filter(None, ious), default=-1.0)) if len(ious) > 1 else None
        rows.append(dict(name=name, rgb=rgb, share=share, ious=ious, best=best))
    return rows


def confusion(result: Result) -> dict:
    """The confusion matrix as shares of each row, with a column for pixels predicted as no class, if any."""
    names = list(result.colors)
    counts, void = np.array(result.metrics["confusion"]), np.array(result.metrics["void_predictions"])
    if void.any():
        counts, names = np.column_stack([counts, void]), [*names, "no class"]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return dict(rows=dict(zip(result.colors, shares.tolist(), strict=True)), columns=names)
