"""Predictions drawn over their image: classes with a legend, uncertainty with a colour bar.

The legend or the bar stands on a strip below the image. Letters grow with the image, so that they can be read
both at full size and scaled to a screen.
"""

from contextlib import suppress

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.labels import Color, Colors, palette
from utils.pictures import BAR_TICKS, MIN_BAR_END, bar_colors, blend, heat_overlay, heat_position

CLASS_OPACITY = 0.5
# Limits of the longer side of an annotated image, in pixels.
MIN_SIDE, MAX_SIDE = 512, 4096
MIN_LETTERS = 14  # letter height in pixels
WHITE, BLACK, GREY = (255, 255, 255), (20, 20, 20), (165, 165, 165)
BAR_TITLE = "Uncertainty (KL divergence, nats)"
MAX_TICK = 0.88  # a tick further right would touch the number at the bar's end
MAX_TICKS = 4  # between the bar's ends


def class_overlay(image: Image.Image, label: np.ndarray, colors: Colors) -> Image.Image:
    """The image blended with the colours of its train ids (H, W)."""
    if label.shape != (image.height, image.width):
        raise ValueError(f"the label is {label.shape}, the image {(image.height, image.width)}")
    return Image.fromarray(blend(np.asarray(image), palette(colors)[label], CLASS_OPACITY))


def overlay_with_legend(
    image: Image.Image, label: np.ndarray, colors: Colors, every_class: bool = False
) -> Image.Image:
    """`class_overlay` above a legend with each class's share of the pixels.

    Args:
        every_class: list all named classes in train id order, so that the legend keeps its layout from frame
            to frame of a video; otherwise those that occur, largest first.
    """
    overlay = _resized(class_overlay(image, label, colors))
    entries = legend_entries(label, colors)
    if every_class:
        entries = entries[: len(colors)]
    else:
        entries = sorted((entry for entry in entries if entry[2]), key=lambda entry: -entry[2])
    return _above(overlay, _legend(entries, *_strip_layout(overlay)))


def uncertainty_overlay(
    image: Image.Image, uncertainty: np.ndarray, maximum: float | None = None
) -> Image.Image:
    """Uncertainty (H, W) in nats as colours over the darkened image, above a colour bar.

    Args:
        maximum: right end of the bar in nats; None: the largest value.
    """
    end = max(float(uncertainty.max()) if maximum is None else maximum, MIN_BAR_END)
    overlay = _resized(heat_overlay(image, heat_position(uncertainty, end)))
    saturated = bool((uncertainty > end).any())
    return _above(overlay, _color_bar(end, saturated, *_strip_layout(overlay)))


def legend_entries(label: np.ndarray, colors: Colors) -> list[tuple[str, Color, float]]:
    """Name, colour and share of the pixels of every class; outputs beyond the named ones are numbered."""
    shares = np.bincount(label.ravel(), minlength=len(colors)) / label.size
    names = [*colors, *(f"class {index}" for index in range(len(colors), len(shares)))]
    table = [tuple(color) for color in palette(colors)[: len(shares)].tolist()]
    return list(zip(names, table, shares.tolist(), strict=True))


def _legend(entries: list[tuple[str, Color, float]], width: int, letters: int) -> Image.Image:
    """Columns of swatch, name and share."""
    font = _font("".join(name for name, _, _ in entries), letters)
    gap, line = letters // 2, round(1.7 * letters)
    share_width = round(font.getlength("100.0 %"))
    around_name = letters + 4 * gap + share_width
    names = [_shortened(name, font, width - gap - around_name) for name, _, _ in entries]
    column = around_name + round(max(map(font.getlength, names)))
    columns = max(1, min(len(entries), (width - gap) // column))
    strip = Image.new("RGB", (width, gap + -(-len(entries) // columns) * line), WHITE)
    pen = ImageDraw.Draw(strip)
    for index, (name, (_, color, share)) in enumerate(zip(names, entries, strict=True)):
        row, place = divmod(index, columns)
        left, top = gap + place * ((width - gap) // columns), gap // 2 + row * line
        middle = top + line // 2
        swatch = (left, middle - letters // 2, left + letters, middle + letters // 2)
        pen.rectangle(swatch, color, outline=GREY)
        ink, percent = (BLACK, f"{100 * share:.1f} %") if share else (GREY, "-")
        pen.text((left + letters + gap, middle), name, ink, font, anchor="lm")
        pen.text((left + column - 2 * gap, middle), percent, ink, font, anchor="rm")
    return strip


def _color_bar(end: float, saturated: bool, width: int, letters: int) -> Image.Image:
    """The colours from 0 to `end` nats between a title and a scale."""
    font, margin = ImageFont.load_default(letters), 2 * letters
    strip = Image.new("RGB", (width, 6 * letters), WHITE)
    pen = ImageDraw.Draw(strip)
    pen.text((width // 2, letters), BAR_TITLE, BLACK, font, anchor="mm")
    bar = Image.fromarray(bar_colors(width - 2 * margin)[None]).resize((width - 2 * margin, letters))
    strip.paste(bar, (margin, 2 * letters))
    inner = [value for value in BAR_TICKS if heat_position(value, end) < MAX_TICK][-MAX_TICKS:]
    numbers = {0: "0"} | {value: f"{value:g}" for value in inner} | {end: f"{end:.2g}" + "+" * saturated}
    for value, number in numbers.items():
        x = margin + round(heat_position(value, end) * (bar.width - 1))
        pen.line((x, 3 * letters, x, 3 * letters + letters // 3), BLACK, letters // 12)
        pen.text((x, 3 * letters + round(1.2 * letters)), number, BLACK, font, anchor="mm")
    return strip


def _font(text: str, letters: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which is ASCII; for other text DejaVu if it is installed."""
    if not text.isascii():
        with suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", letters)
    return ImageFont.load_default(letters)


def _shortened(name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The name, cut to `width` pixels."""
    if font.getlength(name) > width:
        while font.getlength(name + "…") > width:
            name = name[:-1]
        name += "…"
    return name


def _resized(image: Image.Image) -> Image.Image:
    """The image with its longer side within the limits: enlarged by a whole factor, or reduced."""
    longer = max(image.size)
    factor = -(-MIN_SIDE // longer) if longer <= MAX_SIDE else MAX_SIDE / longer
    return image.resize([max(1, round(factor * side)) for side in image.size], Image.Resampling.BOX)


def _strip_layout(image: Image.Image) -> tuple[int, int]:
    """Width of the strip below an image, and the height of its letters."""
    width = max(image.width, MIN_SIDE)
    return width, max(MIN_LETTERS, min(max(image.size) // 64, width // 26))


def _above(image: Image.Image, strip: Image.Image) -> Image.Image:
    """The image centred above the strip; both sides of the result are even, as video codecs require."""
    width, height = strip.width, image.height + strip.height
    sheet = Image.new("RGB", (width + width % 2, height + height % 2), WHITE)
    sheet.paste(image, ((width - image.width) // 2, 0))
    sheet.paste(strip, (0, image.height))
    return sheet
