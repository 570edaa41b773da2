"""The page of one evaluation: IoU of each class, confusions, and the worst and best images."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from dataset import SegmentationDataset
from engine.evaluation import ImageScores
from report.example_pictures import (
    ERROR_COLORS,
    NO_CLASS,
    common_end,
    confidence_figure,
    error_figure,
    label_figures,
    mistakes,
    prediction_figure,
    prediction_of,
    read_example,
    uncertainty_figure,
)
from report.page import legend, note, percent, write_page
from report.result_folder import Result
from report.result_tables import confusion_table, headline, iou_table
from utils.uncertainty import UNCERTAINTIES

ORDER = (
    "Images are ordered by the share of their labelled pixels that are predicted right (pixel accuracy). "
    "The mean IoU of a single image orders badly: a class of ten pixels would count as much as the road. "
    "Both are in images.csv for every image."
)


def worst_and_best(images: Iterable[ImageScores], count: int) -> tuple[list[ImageScores], list[ImageScores]]:
    """The `count` images of least and of most pixel accuracy, the worst and the best one first.

    Of fewer images each is in one list; those without a labelled pixel are in none.
    """
    scored = sorted(
        (i for i in images if i.scores[0].accuracy is not None), key=lambda i: i.scores[0].accuracy
    )
    worst = min(count, (len(scored) + 1) // 2)
    best = min(count, len(scored) // 2)
    return scored[:worst], scored[: len(scored) - best - 1 : -1]


def write_evaluation_report(path: Path, result: Result, data: SegmentationDataset, images: int) -> None:
    """Write the page with the `images` worst and best images of each kind.

    Raises:
        UserError: a file that it shows is damaged, or the page cannot be written.
    """
    metrics = result.metrics
    sections = {
        "Result": _bars(metrics),
        "IoU of each class": iou_table(metrics["classifiers"], result.colors, metrics["confusion"]),
        "Confusion": note("How the pixels of each class are predicted, in percent of the row.")
        + confusion_table(metrics["confusion"], list(result.colors), metrics["void_predictions"]),
    }
    worst, best = worst_and_best(result.images.values(), images)
    end = common_end([result], [scores.image for scores in (*worst, *best)])
    words = note(ORDER + _uncertainty_words(metrics["uncertainty"])) + _legends(result)
    for title, chosen in (("Worst images", worst), ("Best images", best)):
        if chosen:
            sections[title] = words + "".join(_image(result, data, scores, end) for scores in chosen)
            words = ""
    about = metrics["data"]
    pixels = sum(scores.pixels for scores in result.images.values())
    intro = (
        f"{metrics['restore_from']} ({about['source']} → {about['target']}): predictions for "
        f"{len(result.images):,} images, compared with their labels in {len(result.colors)} classes, "
        f"{pixels:,} labelled pixels."
    )
    write_page(path, f"Evaluation: {result.folder.name}", intro, sections)


def _bars(metrics: dict) -> str:
    """The means and the pixel accuracy; of several columns the first mean of each."""
    columns = metrics["classifiers"]
    words = "In percent; a full track is 100 %. "
    if len(columns) > 1:
        mean = next(iter(metrics["means"]))
        values = {title: column["means"][mean] for title, column in columns.items()}
        words += f"{mean} by weights of the primary and the auxiliary classifier; pictures are of the first."
    else:
        values = metrics["means"] | {"pixel accuracy": metrics["pixel_accuracy"]}
        words += "mIoU is the mean over the classes that occur, from one confusion matrix over all images."
    if (gap := metrics["uncertainty_gap"]) is not None:
        words += (
            f" Uncertainty gap {gap:.3f}: the mean of exp(−uncertainty) over right minus that over wrong "
            "pixels; the larger, the better uncertainty tells errors."
        )
    return headline(values, words)


def _uncertainty_words(kind: str | None) -> str:
    if kind is None:
        return ""
    return (
        f" Uncertainty is the {UNCERTAINTIES[kind]}, in nats, on one scale for all images here; confidence "
        "is the mean probability of the predicted class. Both are drawn over the darkened image, what is "
        "doubtful bright."
    )


def _legends(result: Result) -> str:
    return legend(result.colors | NO_CLASS) + legend(ERROR_COLORS)


def _image(result: Result, data: SegmentationDataset, scores: ImageScores, end: float) -> str:
    """An image with all that is known of its prediction."""
    example = read_example(data, scores.image)
    prediction = prediction_of(result, example)
    accuracy, miou = scores.scores[0]
    words = f"{percent(accuracy)} % of {scores.pixels:,} labelled pixels right, mIoU {percent(miou)} %."
    if prediction is not None:
        confused = mistakes(example.label, prediction, list(result.colors))
        words += f" Commonest mistakes: {confused}."
    figures = [
        *label_figures(example, result.colors),
        prediction_figure(result, example, "Prediction"),
        error_figure(result, example, "Errors"),
    ]
    if result.metrics["uncertainty"]:
        figures += [uncertainty_figure(result, example, end), confidence_figure(result, example)]
    head = f'<h3 class="file">{escape(scores.image)}</h3>'
    return f'{head}{note(words)}<div class="grid maps">{"".join(figures)}</div>'
