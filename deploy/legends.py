"""A prediction as pictures that explain themselves: classes with a legend, uncertainty with a colour bar.

What explains stands on a strip below the picture and covers nothing of it. Letters grow with the picture, so
that they can be read whether the sheet is shown whole or pixel by pixel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.labels import Color, Colors, palette
from utils.pictures import BAR_TICKS, MIN_BAR_END, bar_colors, blend, heat_overlay, heat_position

SHARE = 0.5  # of the classes' colours in an overlay
# A sheet's longer side in pixels: smaller pictures are enlarged by a whole factor, larger ones reduced.
SMALLEST, LARGEST = 512, 4096
MIN_LETTERS = 14  # pixels
SHEETS_OF_LETTERS = 80  # so many letter heights fit across a sheet, and at least this many:
FEWEST_LETTERS = 26
PORTRAIT = 1.5  # upright pictures are shown smaller: their height counts so many times their width
# Pillow's own letters are ASCII; names in others take the first of these that is installed and has them.
OTHER_LETTERS = ("DejaVuSans.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
NO_LETTER = "\uffff"
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (165, 165, 165)

BAR_TITLE = "Uncertainty: KL divergence of the two classifiers, in nats"
BAR_TITLE_SHORT = "Uncertainty (KL, nats)"


class Entry(NamedTuple):
    """A line of the legend; `share` of the pixels is None where the class does not occur."""

    name: str
    color: Color
    share: float | None


def class_overlay(image: Image.Image, label: np.ndarray, colors: Colors, share: float = SHARE) -> np.ndarray:
    """The picture mixed with the colours of its train ids (H, W): (H, W, 3) uint8."""
    if label.shape != (image.height, image.width):
        raise ValueError(f"the label is {label.shape}, the picture {(image.height, image.width)}")
    return blend(np.asarray(image), palette(colors)[label], share)


def overlay_with_legend(
    image: Image.Image, label: np.ndarray, colors: Colors, every_class: bool = False
) -> Image.Image:
    """`class_overlay` on a sheet with the classes below it and the share of the pixels that each has.

    Args:
        every_class: name all classes, in their own order, so that the frames of a video are alike; else
            those that occur, the largest first.
    """
    picture = _shown(Image.fromarray(class_overlay(image, label, colors)))
    letters = _letters(picture.size)
    legend = _legend(_entries(label, colors, every_class), _sheet_width(picture.width), letters)
    return _sheet(picture, legend)


def uncertainty_picture(
    image: Image.Image, uncertainty: np.ndarray, maximum: float | None = None
) -> Image.Image:
    """Uncertainty (H, W) in nats as colours over the darkened picture, on a sheet with a colour bar.

    The colours follow log(1 + 10 * KL), as the heat maps do.

    Args:
        maximum: where the bar ends, in nats; None: at the largest value.
    """
    end = max(float(uncertainty.max()) if maximum is None else maximum, MIN_BAR_END)
    picture = _shown(heat_overlay(image, heat_position(uncertainty, end)))
    letters = _letters(picture.size)
    saturated = bool((uncertainty > end).any())
    return _sheet(picture, _color_bar(end, saturated, _sheet_width(picture.width), letters))


def _entries(label: np.ndarray, colors: Colors, every_class: bool) -> list[Entry]:
    counts = np.bincount(label.ravel(), minlength=len(colors))
    # Networks may have more outputs than named classes.
    names = [*colors, *(f"class {index}" for index in range(len(colors), len(counts)))]
    table = palette(colors)
    entries = [
        Entry(name, tuple(table[index].tolist()), counts[index] / label.size if counts[index] else None)
        for index, name in enumerate(names)
    ]
    if every_class:
        return entries
    return sorted((e for e in entries if e.share is not None), key=lambda entry: -entry.share)


def _legend(entries: Sequence[Entry], width: int, letters: int) -> Image.Image:
    """A strip of columns: swatch, name, share."""
    font = _font(letters, "".join(entry.name for entry in entries))
    gap, line = round(0.6 * letters), round(1.7 * letters)
    swatch = round(1.1 * letters)
    share_width = round(font.getlength("100.0 %"))
    spare = 2 * gap + swatch + share_width  # of a column, beside the name
    longest = width - 2 * gap - spare
    names = [_shortened(entry.name, font, longest) for entry in entries]
    column = spare + round(max(map(font.getlength, names), default=0))
    columns = max(1, min(len(entries), (width - gap) // (column + 2 * gap)))
    column = min((width - 2 * gap) // columns - 2 * gap, column + 2 * gap)  # apart, but not torn apart
    rows = -(-len(entries) // columns)
    strip = Image.new("RGB", (width, rows * line + gap), PAPER)
    pen = ImageDraw.Draw(strip)
    for index, (entry, name) in enumerate(zip(entries, names, strict=True)):
        left = gap + index % columns * (column + 2 * gap)
        middle = gap // 2 + index // columns * line + line // 2
        top = middle - swatch // 2
        pen.rectangle((left, top, left + swatch, top + swatch), entry.color, outline=FAINT)
        ink = FAINT if entry.share is None else INK
        pen.text((left + swatch + gap, middle), name, ink, font, anchor="lm")
        pen.text((left + column, middle), _percent(entry.share), ink, font, anchor="rm")
    return strip


def _color_bar(end: float, saturated: bool, width: int, letters: int) -> Image.Image:
    """A strip with the colours from 0 to `end` nats, and numbers below them."""
    font = ImageFont.load_default(letters)
    gap, apart, margin = round(0.6 * letters), 2 * letters, 2 * letters
    title = BAR_TITLE if font.getlength(BAR_TITLE) <= width - 2 * gap else BAR_TITLE_SHORT
    bar_width, bar_height = width - 2 * margin, round(1.2 * letters)
    bar_top = gap + round(1.6 * letters)
    strip = Image.new("RGB", (width, bar_top + bar_height + round(2.4 * letters)), PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((width // 2, gap + letters // 2), title, INK, font, anchor="mm")
    bar = np.broadcast_to(bar_colors(bar_width), (bar_height, bar_width, 3))
    strip.paste(Image.fromarray(np.ascontiguousarray(bar)), (margin, bar_top))
    numbers = {0.0: "0", end: f"{end:.2g}" + ("+" if saturated else "")}
    taken = [_span(font, numbers[value], value, end, bar_width) for value in numbers]
    for value in (tick for tick in reversed(BAR_TICKS) if tick < end):
        left, right = _span(font, f"{value:g}", value, end, bar_width)
        if all(right + apart < low or high + apart < left for low, high in taken):
            taken.append((left, right))
            numbers[value] = f"{value:g}"
    thickness = max(1, letters // 12)
    for value, text in numbers.items():
        x = margin + round(heat_position(value, end) * (bar_width - 1))
        pen.line((x, bar_top + bar_height, x, bar_top + bar_height + letters // 3), INK, thickness)
        pen.text((x, bar_top + bar_height + round(1.2 * letters)), text, INK, font, anchor="mm")
    return strip


def _span(
    font: ImageFont.FreeTypeFont, text: str, value: float, end: float, width: int
) -> tuple[float, float]:
    """Left and right end of a number below the bar."""
    middle, half = heat_position(value, end) * (width - 1), font.getlength(text) / 2
    return middle - half, middle + half


def _font(letters: int, text: str) -> ImageFont.FreeTypeFont:
    """A font that has what the text needs, if there is one."""
    foreign = {letter for letter in text if not letter.isascii()}
    for name in OTHER_LETTERS if foreign else ():
        try:
            font = ImageFont.truetype(name, letters)
        except OSError:
            continue
        missing = bytes(font.getmask(NO_LETTER))
        if all(bytes(font.getmask(letter)) != missing for letter in foreign):
            return font
    return ImageFont.load_default(letters)


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _shortened(name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The name, its end cut off where it is too long."""
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "…") > width:
        name = name[:-1]
    return name + "…"


def _shown(picture: Image.Image) -> Image.Image:
    """The picture at the size that a sheet shows it at."""
    longer = max(picture.size)
    if longer > LARGEST:
        width, height = (max(1, round(LARGEST / longer * side)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BOX)
    factor = -(-SMALLEST // longer)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def _sheet_width(picture_width: int) -> int:
    return max(picture_width, SMALLEST)


def _letters(size: tuple[int, int]) -> int:
    """Height of the letters on a sheet with a picture of (width, height)."""
    wanted = max(size[0], PORTRAIT * size[1]) / SHEETS_OF_LETTERS
    return max(MIN_LETTERS, round(min(wanted, _sheet_width(size[0]) / FEWEST_LETTERS)))


def _sheet(picture: Image.Image, strip: Image.Image) -> Image.Image:
    """The picture above the strip, in the middle if it is narrower; both sides even, as videos need."""
    height = picture.height + strip.height
    sheet = Image.new("RGB", (strip.width + strip.width % 2, height + height % 2), PAPER)
    sheet.paste(picture, ((strip.width - picture.width) // 2, 0))
    sheet.paste(strip, (0, picture.height))
    return sheet
