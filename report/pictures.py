"""Pictures of a page: an image with its label, prediction, errors, uncertainty and confidence."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataset import DataError, SegmentationDataset
from dataset.images import check_sizes, decode_image
from dataset.labels import Colors, palette
from report.result_folder import Result
from utils.pictures import BAR_TICKS, MIN_BAR_END, heat_overlay, heat_position

WIDTH = 640  # pixels: twice a picture's width on the page, for fine screens
SMALL_WIDTH = 320  # pictures at most this wide are stored without loss and maps drawn with sharp pixels
JPEG_QUALITY = 85
ERROR_COLORS = {"right": (226, 230, 233), "wrong": (213, 94, 0), "not labelled": (139, 148, 156)}
CHANGE_COLORS = {
    "only the last right": (0, 158, 115),
    "only the first right": (146, 70, 160),
    "both right": ERROR_COLORS["right"],
    "both wrong": ERROR_COLORS["wrong"],
    "not labelled": ERROR_COLORS["not labelled"],
}
NO_CLASS = {"no class": (0, 0, 0)}  # in maps of classes
END_PERCENTILE = 99  # percent of an image's pixels that are below the end of its own colour bar
TICKS_APART = 0.16  # of a colour bar's length
MISTAKES = 3  # named per image
DASH = "–"


class Scale(NamedTuple):
    """Numbers below a colour bar: position (0 to 1) -> text."""

    ticks: Mapping[float, str]
    unit: str


CONFIDENCE = Scale({0.0: "100", 0.25: "75", 0.5: "50", 0.75: "25", 1.0: "0"}, "%")


class Picture(NamedTuple):
    """What the template's `figure` shows; without `src` an empty frame."""

    caption: str
    alt: str
    src: str = ""
    sharp: bool = False  # enlarge it without smoothing
    scale: Scale | None = None


class Example(NamedTuple):
    """An image, None if its file is gone, with its label: train ids (H, W)."""

    name: str
    image: Image.Image | None
    label: np.ndarray


def percent(fraction: float | None) -> str:
    """A fraction in percent."""
    return DASH if fraction is None else f"{100 * fraction:.1f}"


def data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def embed(
    image: Image.Image | None, caption: str, alt: str, photo: bool = False, scale: Scale | None = None
) -> Picture:
    """A picture stored in the page: a photo as JPEG, a map as PNG with exact colours."""
    if image is None:
        return Picture(caption, alt)
    if image.width > WIDTH:
        size = (WIDTH, max(1, round(image.height * WIDTH / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    small = image.width <= SMALL_WIDTH
    file, kind = io.BytesIO(), "jpeg" if photo and not small else "png"
    image.convert("RGB").save(file, kind, quality=JPEG_QUALITY, optimize=True)
    return Picture(caption, alt, data_uri(kind, file.getvalue()), small and not photo, scale)


def read_example(data: SegmentationDataset, name: str) -> Example:
    """An image of a data set with its label.

    Raises:
        DataError: a file cannot be read, or there is no label.
    """
    path = data.existing_label(name, required=True)
    label, image = data.train_ids(name), None
    if data.image_path(name).is_file():
        image = decode_image(data.image_path(name))
        check_sizes(path, label.shape[::-1], image.size)
    return Example(name, image, label)


def color_map(train_ids: np.ndarray, colors: Colors) -> Image.Image:
    """Train ids (H, W) in their classes' colours."""
    return Image.fromarray(palette(colors)[train_ids])


def error_map(label: np.ndarray, prediction: np.ndarray, classes: int) -> Image.Image:
    """Where a prediction differs from the label, in `ERROR_COLORS`."""
    return color_map(np.select([label >= classes, label == prediction], [2, 0], 1), ERROR_COLORS)


def change_map(label: np.ndarray, first: np.ndarray, last: np.ndarray, classes: int) -> Image.Image:
    """Which of two predictions is right where, in `CHANGE_COLORS`."""
    before, after = label == first, label == last
    kinds = np.select([label >= classes, after & ~before, before & ~after, before], [4, 0, 1, 2], 3)
    return color_map(kinds, CHANGE_COLORS)


def mistakes(label: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> str:
    """The most frequent confusions of an image in words, with their share of its labelled pixels."""
    labelled = label < len(names)
    wrong = labelled & (label != prediction)
    pairs = np.bincount(label[wrong].astype(np.int64) * 256 + prediction[wrong], minlength=MISTAKES)
    words = []
    for index in (i for i in np.argsort(-pairs, kind="stable")[:MISTAKES] if pairs[i]):
        truth, guess = divmod(int(index), 256)
        seen = [*names, "no class"][min(guess, len(names))]
        words.append(f"{names[truth]} taken for {seen} ({percent(pairs[index] / labelled.sum())} %)")
    return ", ".join(words) or "none"


def nats_scale(end: float) -> Scale:
    """The colour bar of uncertainty up to `end` nats."""
    ticks = {0.0: "0", 1.0: f"{end:.2g}+"}
    for value in (tick for tick in reversed(BAR_TICKS) if tick < end):
        place = float(heat_position(value, end))
        if all(abs(place - taken) >= TICKS_APART for taken in ticks):
            ticks[place] = f"{value:g}"
    return Scale(ticks, "nats")


def common_end(results: Iterable[Result], images: Sequence[str]) -> float:
    """Where one colour bar for all these images ends, in nats.

    A few outliers share the last colour; a bar long enough for them would leave all other pixels dark.
    """
    maps = (r.uncertainty(image) for r in results if r.metrics["uncertainty"] for image in images)
    return max([MIN_BAR_END, *(float(np.percentile(nats, END_PERCENTILE)) for nats in maps)])


def source_pictures(example: Example, colors: Colors) -> list[Picture]:
    """The image and its label."""
    return [
        embed(example.image, "Image", f"image {example.name}", photo=True),
        embed(color_map(example.label, colors), "Label", f"label of {example.name}"),
    ]


def prediction_pictures(
    result: Result, example: Example, prediction: np.ndarray, title: str
) -> tuple[Picture, Picture]:
    """A prediction in colours, and its errors."""
    accuracy = result.images[example.name].accuracy
    wrong = None if accuracy is None else 1 - accuracy
    colored = color_map(prediction, result.colors)
    errors = error_map(example.label, prediction, len(result.colors))
    return (
        embed(colored, f"{title}, {percent(accuracy)} % right", f"prediction of {title} for {example.name}"),
        embed(errors, f"Errors: {percent(wrong)} %", f"wrong pixels of {example.name}"),
    )


def uncertainty_picture(result: Result, example: Example, end: float) -> Picture:
    """Uncertainty over the darkened image, with a colour bar up to `end` nats."""
    picture = _overlay(example, heat_position(result.uncertainty(example.name), end))
    caption = f"Uncertainty, mean {result.images[example.name].uncertainty_mean:.2g} nats"
    return embed(picture, caption, f"uncertainty of {example.name}", True, nats_scale(end))


def confidence_picture(result: Result, example: Example) -> Picture:
    """Confidence over the darkened image; low is bright, as high uncertainty is."""
    picture = _overlay(example, 1 - result.confidence(example.name))
    return embed(picture, "Confidence (low is bright)", f"confidence of {example.name}", True, CONFIDENCE)


def _overlay(example: Example, position: np.ndarray) -> Image.Image:
    """Positions on the colour bar (H, W) over the image, or over white if it is gone."""
    check_map(example, position)
    return heat_overlay(example.image or Image.new("L", position.shape[::-1], "white"), position)


def check_map(example: Example, pixels: np.ndarray) -> None:
    """Raise DataError unless a result's map (H, W) is of the label's size."""
    if pixels.shape != example.label.shape:
        sizes = f"{pixels.shape}, the label {example.label.shape} (height, width)"
        raise DataError(f"{example.name}: a map in the result folder is {sizes}; evaluate again")
