"""The pages: one HTML file each, without scripts or requests, from the templates beside this file.

Names and titles come from users' files; Jinja2 escapes everything, and the policy in the page's head forbids
scripts and requests.
"""

import datetime
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dataset import SegmentationDataset
from report import pictures
from report.comparison import Gain, Results, missing_counts, most_changed, points
from report.pictures import CHANGE_COLORS, ERROR_COLORS, NO_CLASS, Example, Picture, percent, read_example
from report.result_folder import ImageScores, Result
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.pictures import bar_colors
from utils.uncertainty import UNCERTAINTIES

RAMP_COLORS = 12  # of a colour bar; the browser interpolates
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scipy")


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"percent": percent, "points": points}
TEMPLATES.globals["ramp"] = ",".join("rgb({},{},{})".format(*color) for color in bar_colors(RAMP_COLORS))


def write_page(path: Path, template: str, title: str, intro: str, command: str = "", **content) -> None:
    """Fill a template and write the page, whole or not at all."""
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES)
    made = f"{time} with Python {platform.python_version()}, {versions} on {platform.machine()}"
    html = TEMPLATES.get_template(template).render(
        title=title, intro=intro, command=command, made=made, titles=[], **content
    )
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
    worst, best = worst_and_best(result.images, images)
    end = pictures.common_end([result], [*worst, *best])
    intro = (
        f"{metrics['restore_from']} ({metrics['data']['source']} → {metrics['data']['target']}): predictions "
        f"for {len(result.images):,} images, compared with their labels in {len(result.colors)} classes, "
        f"{sum(result.pixels.values()):,} labelled pixels."
    )
    write_page(
        path,
        "evaluation.html.j2",
        f"Evaluation: {result.folder.name}",
        intro,
        metrics=metrics,
        bars=bars,
        rows=iou_rows(columns.values(), result),
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
    prediction, mistakes = pictures.read_prediction(result, example), None
    shown = [
        *pictures.source_pictures(example, result.colors),
        pictures.prediction_picture(result, example, "Prediction"),
        pictures.error_picture(result, example, "Errors"),
    ]
    if result.metrics["uncertainty"]:
        shown.append(pictures.uncertainty_picture(result, example, end))
        shown.append(pictures.confidence_picture(result, example))
    if prediction is not None:
        mistakes = pictures.mistakes(example.label, prediction, list(result.colors))
    return dict(name=example.name, scores=result.images[example.name], mistakes=mistakes, pictures=shown)


def write_comparison(
    path: Path,
    results: Results,
    gains: Mapping[str, Gain],
    data: SegmentationDataset,
    count: int,
    names: Sequence[str] = (),
) -> None:
    """The page of several evaluations side by side, as in Rectifying's figure 4.

    It shows the `count` images with the largest gain and with the largest loss, or those in `names`.

    Raises:
        UserError, DataError: a name is not among the images, a file that the page shows is damaged, or the
            page cannot be written.
    """
    (_, first), *_, (last, _) = results.items()
    if names:
        if unknown := [name for name in names if name not in first.images]:
            raise UserError(f"--names {unknown[0]}: not among the images in {first.folder}/images.csv")
        groups = {"Images": names}
    else:
        better, worse = most_changed(results, count)
        groups = {f"Where “{last}” gains most": better, f"Where “{last}” loses most": worse}
    title = "Comparison: " + ", ".join(results)
    intro = f"{len(results)} evaluations of the same {len(data):,} images."
    write_page(path, "comparison.html.j2", title, intro, **_compared(results, gains, data, groups))


def write_demo(
    path: Path,
    results: Results,
    gains: Mapping[str, Gain],
    curves: Mapping[str, Sequence[Picture]],
    domains: Mapping[str, tuple[SegmentationDataset, Sequence[str]]],
    data: SegmentationDataset,
    names: Sequence[str],
    **words: str,
) -> None:
    """The comparison of the demo, with its two domains and the curves of its trainings.

    Args:
        curves: the charts of each training.
        domains: "Source", "Target" -> data set and the images of it to show.
        words: the page's `title`, `intro` and `command`.
    """
    examples = {
        title: [pictures.source_pictures(read_example(domain, name), domain.colors) for name in shown]
        for title, (domain, shown) in domains.items()
    }
    write_page(
        path,
        "demo.html.j2",
        **words,
        **_compared(results, gains, data, {"Examples": names}),
        domains=examples,
        curves=curves,
        confusion=confusion(list(results.values())[-1]),
    )


def _compared(
    results: Results,
    gains: Mapping[str, Gain],
    data: SegmentationDataset,
    groups: Mapping[str, Sequence[str]],
) -> dict:
    """What the template of a comparison shows; `groups`: section -> images."""
    (first, _), *_, (last, latest) = results.items()
    end = pictures.common_end(results.values(), [name for group in groups.values() for name in group])
    return dict(
        mious={title: result.metrics["miou"] for title, result in results.items()},
        gains={first: "reference"} | gains,
        hints=missing_counts(results),
        images=len(latest.images),
        rows=iou_rows([result.column for result in results.values()], latest),
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
    )


def _side_by_side(results: Results, example: Example, end: float) -> dict:
    """Image, label and change; then prediction, uncertainty and errors of each evaluation."""
    first, *_, last = results.values()
    accuracies = [result.images[example.name].accuracy for result in results.values()]
    before, after = (pictures.read_prediction(result, example) for result in (first, last))
    change = None
    if before is not None and after is not None:
        change = pictures.change_map(example.label, before, after, len(last.colors))
    caption = f"Change: {points(accuracies[-1], accuracies[0])} points"
    columns = [
        [
            *pictures.source_pictures(example, last.colors),
            pictures.embed(change, caption, f"change of the prediction of {example.name}"),
        ]
    ]
    for (title, result), accuracy in zip(results.items(), accuracies, strict=True):
        column = [pictures.prediction_picture(result, example, title)]
        if result.metrics["uncertainty"]:
            column.append(pictures.uncertainty_picture(result, example, end))
        wrong = "Errors" if accuracy is None else f"Errors: {percent(1 - accuracy)} %"
        columns.append([*column, pictures.error_picture(result, example, wrong)])
    return {"name": example.name, "columns": columns}


def iou_rows(columns: Iterable[Mapping], result: Result) -> list[dict]:
    """The table of IoU, means first; `columns` are those of `metrics.json`, `best` is the largest as text."""
    columns, metrics = list(columns), result.metrics
    pixels = np.array(metrics["confusion"], dtype=float).sum(1)
    shares = pixels / max(pixels.sum(), 1)
    heads = [("means", name, None, None) for name in metrics["means"]]
    for (name, rgb), share in zip(result.colors.items(), shares, strict=True):
        heads.append(("iou", name, rgb, share or None))
    rows = []
    for kind, name, rgb, share in heads:
        ious = [column[kind][name] for column in columns]
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
