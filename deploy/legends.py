"""Predictions drawn over their image: classes above a legend, uncertainty above a colour bar.

Letters grow with the image, so that they can be read both at full size and scaled to a screen.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from dataset.labels import Color, Colors, palette
from utils.pictures import BAR_TICKS, MIN_BAR_END, bar_colors, blend, heat_overlay, heat_position

CLASS_OPACITY = 0.5
# Limits of the longer side of an annotated image, in pixels.
MIN_SIDE, MAX_SIDE = 512, 4096
MIN_LETTERS = 14  # font size in pixels
MAX_NAME = 24  # characters of a class name in the legend
DPI = 72  # matplotlib's point is 1/72 inch: lengths in points are lengths in pixels
MAX_TICK = 0.88  # a tick further right would touch the number at the bar's end
MAX_TICKS = 4  # between the bar's ends


def class_overlay(image: Image.Image, label: np.ndarray, colors: Colors) -> Image.Image:
    """The image blended with the colours of its train ids (H, W)."""
    return Image.fromarray(blend(np.asarray(image), palette(colors)[label], CLASS_OPACITY))


def overlay_with_legend(
    image: Image.Image, label: np.ndarray, colors: Colors, every_class: bool = False
) -> Image.Image:
    """`class_overlay` above a legend of the classes that occur and their shares of the pixels, largest first.

    Args:
        every_class: list all named classes, without shares: the same legend for every frame of a video.
    """
    entries = tuple(colors.items()) if every_class else tuple(legend_entries(label, colors))
    return _above(class_overlay(image, label, colors), partial(_legend, entries))


def uncertainty_overlay(
    image: Image.Image, uncertainty: np.ndarray, maximum: float | None = None
) -> Image.Image:
    """Uncertainty (H, W) in nats as colours over the darkened image, above a colour bar.

    Args:
        maximum: right end of the bar in nats; None: the largest value.
    """
    end = max(float(uncertainty.max()) if maximum is None else maximum, MIN_BAR_END)
    saturated = bool((uncertainty > end).any())
    return _above(heat_overlay(image, heat_position(uncertainty, end)), partial(_color_bar, end, saturated))


def legend_entries(label: np.ndarray, colors: Colors) -> list[tuple[str, Color, float]]:
    """Name, colour and share of the pixels of each class in `label` (H, W), largest share first.

    Train ids beyond the named classes are numbered.
    """
    shares = np.bincount(label.ravel()) / label.size
    names = [*colors, *(f"class {index}" for index in range(len(colors), len(shares)))]
    order = np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]
    return [(names[i], tuple(palette(colors)[i].tolist()), shares[i]) for i in order]


@lru_cache(maxsize=1)  # a video has one legend
def _legend(entries: tuple[tuple, ...], width: int, letters: int) -> Image.Image:
    """Swatch, name and share (if given) of each entry, in as many columns as fit."""
    patches = []
    for name, color, *share in entries:
        shown = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
        # matplotlib would leave out names that begin with an underscore, and typeset $…$ as a formula.
        text = "  ".join([" " + shown.replace("$", r"\$"), *(f"{100 * value:.1f} %" for value in share)])
        patches.append(Patch(facecolor=np.divide(color, 255), edgecolor="darkgrey", label=text))
    figure = Figure((width / DPI, 1), DPI)
    columns = 1
    for _ in range(2):  # the first time to measure one column
        figure.legends.clear()
        legend = figure.legend(
            handles=patches,
            loc="center left",
            ncols=columns,
            fontsize=letters,
            frameon=False,
            borderaxespad=0,
            borderpad=0.5,
            columnspacing=1,  # twice `borderpad`: n columns are at most n times as wide as one
            handlelength=1,
            handleheight=1,
            handletextpad=0.3,
        )
        size = legend.get_window_extent()
        columns = max(1, int(width // size.width))
    return _rendered(figure, math.ceil(size.height))


def _color_bar(end: float, saturated: bool, width: int, letters: int) -> Image.Image:
    """The colours from 0 to `end` nats between a title and a scale."""
    margin = 2 * letters
    figure = Figure((width / DPI, 1), DPI)
    axes = figure.add_axes((margin / width, 0.5, 1 - 2 * margin / width, 1 / 6), frameon=False)
    axes.imshow(bar_colors(width - 2 * margin)[None], aspect="auto", extent=(0, 1, 0, 1))
    axes.set_title("Uncertainty (KL divergence, nats)", fontsize=letters, pad=letters / 2)
    inner = [value for value in BAR_TICKS if heat_position(value, end) < MAX_TICK][-MAX_TICKS:]
    numbers = ["0", *(f"{value:g}" for value in inner), f"{end:.2g}" + "+" * saturated]
    axes.set_xticks([heat_position(value, end) for value in (0, *inner, end)], numbers)
    axes.set_yticks([])
    axes.tick_params(labelsize=letters, length=letters / 3, width=letters / 12, pad=letters / 4)
    return _rendered(figure, 6 * letters)


def _rendered(figure: Figure, height: int) -> Image.Image:
    figure.set_figheight(height / DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _above(image: Image.Image, draw_strip: Callable[[int, int], Image.Image]) -> Image.Image:
    """The image centred above a strip drawn for a width and a font size, with an even width and height.

    The image is enlarged by a whole factor, or reduced, to sides within the limits. Video codecs require the
    even sides.
    """
    longer = max(image.size)
    factor = -(-MIN_SIDE // longer) if longer <= MAX_SIDE else MAX_SIDE / longer
    image = image.resize([max(1, round(factor * side)) for side in image.size], Image.Resampling.BOX)
    width = max(image.width, MIN_SIDE)
    strip = draw_strip(width, max(MIN_LETTERS, min(max(image.size) // 64, width // 26)))
    height = image.height + strip.height
    sheet = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    sheet.paste(image, ((width - image.width) // 2, 0))
    sheet.paste(strip, (0, image.height))
    return sheet
