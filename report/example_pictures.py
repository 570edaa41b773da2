"""Images of an evaluation on a page: label, prediction, errors, uncertainty and confidence of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataset import DataError, SegmentationDataset
from dataset.images import check_sizes, decode_image
from dataset.labels import IGNORE, Colors, palette
from report.page import css_color, figure, percent
from report.result_folder import Result
from utils.pictures import BAR_TICKS, MIN_BAR_END, bar_colors, heat_overlay, heat_position

ERROR_COLORS = {"right": (226, 230, 233), "wrong": (213, 94, 0), "not labelled": (139, 148, 156)}
NO_CLASS = {"no class": (0, 0, 0)}  # in maps of classes
CHANGE_COLORS = {
    "only the last right": (0, 158, 115),
    "only the first right": (146, 70, 160),
    "both right": ERROR_COLORS["right"],
    "both wrong": ERROR_COLORS["wrong"],
    "not labelled": ERROR_COLORS["not labelled"],
}
RAMP_COLORS = 12  # of a scale; the browser fills in between
END_PERCENTILE = 99  # of the pixels of the most uncertain image have colours of their own
TICKS_APART = 0.16  # of a scale's length
MISTAKES = 3  # of an image that are named


class Example(NamedTuple):
    """An image (None where its file is gone) and its label: train ids (H, W)."""

    name: str
    image: Image.Image | None
    label: np.ndarray


def read_example(data: SegmentationDataset, name: str) -> Example:
    """An image of a data set with its label.

    Raises:
        DataError: a file cannot be read, or there is no label.
    """
    path = data.label_path(name)
    if path is None or not path.is_file():
        raise DataError(data.missing_label(path))
    label, image = data.train_ids(name), None
    if data.image_path(name).is_file():
        image = decode_image(data.image_path(name))
        check_sizes(path, label.shape[::-1], image.size)
    return Example(name, image, label)


def color_map(train_ids: np.ndarray, colors: Colors) -> Image.Image:
    """Train ids (H, W) in their classes' colours."""
    return Image.fromarray(palette(colors)[train_ids])


def right_and_labelled(
    label: np.ndarray, prediction: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels (H, W) are predicted right, and which have a label of a class; bool."""
    labelled = label < classes
    return labelled & (label == prediction), labelled


def error_map(label: np.ndarray, prediction: np.ndarray, classes: int) -> Image.Image:
    """Where a prediction differs from the label, in `ERROR_COLORS`."""
    right, labelled = right_and_labelled(label, prediction, classes)
    return _in_colors(np.select([right, labelled], [0, 1], 2), ERROR_COLORS)


def change_map(label: np.ndarray, first: np.ndarray, last: np.ndarray, classes: int) -> Image.Image:
    """Which of two predictions is right where, in `CHANGE_COLORS`."""
    (before, labelled), (after, _) = (right_and_labelled(label, p, classes) for p in (first, last))
    kinds = [after & ~before, before & ~after, before, labelled]
    return _in_colors(np.select(kinds, range(4), 4), CHANGE_COLORS)


def _in_colors(indices: np.ndarray, colors: Colors) -> Image.Image:
    return Image.fromarray(np.array([*colors.values()], np.uint8)[indices])


def mistakes(label: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> str:
    """The commonest confusions of an image in words, with their share of its labelled pixels."""
    right, labelled = right_and_labelled(label, prediction, len(names))
    wrong = labelled & ~right
    pairs = np.bincount(label[wrong].astype(np.int64) * 256 + prediction[wrong], minlength=1)
    words = []
    for index in np.argsort(-pairs, kind="stable")[:MISTAKES]:
        if not pairs[index]:
            break
        truth, guess = divmod(int(index), 256)
        seen = names[guess] if guess < len(names) else "no class"
        words.append(f"{names[truth]} taken for {seen} ({percent(pairs[index] / labelled.sum())} %)")
    return ", ".join(words) or "none"


def scale(ticks: Mapping[float, str], unit: str) -> str:
    """A colour bar with its numbers below it.

    Args:
        ticks: place on the bar (0 ... 1) -> number.
    """
    ramp = ",".join(css_color(rgb) for rgb in bar_colors(RAMP_COLORS))
    numbers = "".join(f'<span style="left:{100 * place:.1f}%">{text}</span>' for place, text in ticks.items())
    return (
        f'<div class="scale"><div style="background:linear-gradient(to right,{ramp})"></div>'
        f"<p>{numbers}</p><small>{unit}</small></div>"
    )


def nats_scale(end: float) -> str:
    """The colour bar of uncertainty up to `end` nats."""
    ticks = {0.0: "0", 1.0: f"{end:.2g}+"}
    for value in (tick for tick in reversed(BAR_TICKS) if tick < end):
        place = float(heat_position(value, end))
        if all(abs(place - taken) >= TICKS_APART for taken in ticks):
            ticks[place] = f"{value:g}"
    return scale(ticks, "nats")


CONFIDENCE_SCALE = scale({0.0: "100", 0.25: "75", 0.5: "50", 0.75: "25", 1.0: "0"}, "%")


def common_end(results: Iterable[Result], images: Sequence[str]) -> float:
    """Where the colour bar of all these images ends, in nats, so that they compare.

    A few pixels are far above all others; they share the last colour, lest the others be dark.
    """
    ends = [MIN_BAR_END]
    for result in results:
        maps = (result.uncertainty(image) for image in images)
        ends += [float(np.percentile(nats, END_PERCENTILE)) for nats in maps if nats is not None]
    return max(ends)


def prediction_of(result: Result, example: Example) -> np.ndarray | None:
    """Train ids (H, W), None where there is no file.

    Raises:
        DataError: it is not of the label's size.
    """
    prediction = result.prediction(example.name)
    if prediction is not None and prediction.shape != example.label.shape:
        raise DataError(
            f"{result.folder}: the prediction of {example.name} is {prediction.shape}, its label "
            f"{example.label.shape} (height, width); evaluate again"
        )
    # What is no class is drawn as none, however many bits the file has.
    return prediction if prediction is None else np.clip(prediction, 0, IGNORE).astype(np.uint8)


def label_figures(example: Example, colors: Colors) -> list[str]:
    """The image and its label."""
    return [
        figure(example.image, "Image", f"image {example.name}", photo=True),
        figure(color_map(example.label, colors), "Label", f"label of {example.name}"),
    ]


def prediction_figure(result: Result, example: Example, title: str) -> str:
    """The prediction, and how much of it is right."""
    prediction = prediction_of(result, example)
    picture = None if prediction is None else color_map(prediction, result.colors)
    accuracy = result.images[example.name].scores[0].accuracy
    return figure(
        picture, f"{title}, {percent(accuracy)} % right", f"prediction of {title} for {example.name}"
    )


def error_figure(result: Result, example: Example, title: str) -> str:
    prediction = prediction_of(result, example)
    picture = None if prediction is None else error_map(example.label, prediction, len(result.colors))
    return figure(picture, title, f"wrong pixels of {example.name}")


def uncertainty_figure(result: Result, example: Example, end: float, title: str = "Uncertainty") -> str:
    """Uncertainty over the darkened image, with a colour bar up to `end` nats."""
    mean = result.images[example.name].uncertainty_mean
    picture = _overlay(example, result.uncertainty(example.name), lambda nats: heat_position(nats, end))
    caption = title if mean is None else f"{title}, mean {mean:.2g} nats"
    return figure(picture, caption, f"uncertainty of {example.name}", photo=True, below=nats_scale(end))


def confidence_figure(result: Result, example: Example) -> str:
    """Confidence over the darkened image; low is bright, as high uncertainty is."""
    picture = _overlay(example, result.confidence(example.name), lambda share: 1 - share)
    alt = f"confidence of {example.name}"
    return figure(picture, "Confidence (low is bright)", alt, photo=True, below=CONFIDENCE_SCALE)


def _overlay(
    example: Example, values: np.ndarray | None, place: Callable[[np.ndarray], np.ndarray]
) -> Image.Image | None:
    """Values (H, W) over the image, or over white where it is gone."""
    if values is None or values.shape != example.label.shape:
        return None
    image = example.image or Image.new("L", values.shape[::-1], "white")
    return heat_overlay(image, place(values))
