"""Building blocks of the pages: one HTML file each, no scripts, no outside files.

Names and titles come from the user's files, so every text passes through `html.escape`, and the policy in a
page's head forbids scripts and requests besides. The look is in `page.css` beside this file and is copied
into the page.
"""

import base64
import datetime
import io
import math
import platform
from collections.abc import Sequence
from html import escape
from importlib import metadata
from pathlib import Path

from PIL import Image

from dataset.labels import Colors
from utils.atomic import atomic_write

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
IMAGE_WIDTH = 640  # pixels of an embedded picture: twice its width on a desktop page, for fine screens
JPEG_QUALITY = 85
SMALL_WIDTH = 320  # a picture at most this wide is embedded without loss, a map is drawn with sharp pixels
DASH = "–"


def finite(value: object) -> float | None:
    """The value as a float; None where it is missing, not a number, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def percent(fraction: float | None) -> str:
    return DASH if fraction is None else f"{100 * fraction:.1f}"


def points_gained(value: float | None, reference: float | None) -> str:
    """The difference of two fractions in percentage points, with its sign."""
    if value is None or reference is None:
        return DASH
    return f"{100 * (value - reference):+.1f}".replace("-", "−")


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def bar(value: float, reference: float | None, title: str) -> str:
    """The SVG of a fraction as a bar on a track that stands for 100 %, with a mark at the reference."""
    mark = ""
    if reference is not None:
        place = f"{100 * reference:.2f}%"
        mark = f'<line class="mark" x1="{place}" x2="{place}" y1="0" y2="100%"/>'
    return (
        f'<svg role="img" aria-label="{escape(title)}"><rect class="track" width="100%" height="100%"/>'
        f'<rect class="bar" width="{100 * value:.2f}%" height="100%"/>{mark}</svg>'
    )


def css_color(rgb: Sequence[int]) -> str:
    return f"rgb({int(rgb[0])},{int(rgb[1])},{int(rgb[2])})"


def swatch(rgb: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:{css_color(rgb)}"></span>'


def legend(colors: Colors) -> str:
    items = "".join(f"<li>{swatch(rgb)}{escape(name)}</li>" for name, rgb in colors.items())
    return f'<ul class="legend">{items}</ul>'


def scroll_box(table: str, title: str) -> str:
    """A table that scrolls sideways in its own box, also by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">{table}</div>'


def figure(image: Image.Image | None, caption: str, alt: str, photo: bool = False, below: str = "") -> str:
    """An embedded picture with its caption: JPEG for a photo, PNG with exact colours for a map.

    Args:
        image: None is shown as an empty frame.
        below: HTML between picture and caption, such as a scale.
    """
    words = f"<figcaption>{escape(caption)}</figcaption>"
    if image is None:
        return f'<figure><div class="none note">no image</div>{words}</figure>'
    if image.width > IMAGE_WIDTH:
        size = (IMAGE_WIDTH, max(1, round(image.height * IMAGE_WIDTH / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS if photo else Image.Resampling.NEAREST)
    small = image.width <= SMALL_WIDTH
    kind = "jpeg" if photo and not small else "png"
    css = "photo" if photo else "small" if small else "map"
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, quality=JPEG_QUALITY, optimize=True)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    size = f'width="{image.width}" height="{image.height}"'
    return f'<figure><img class="{css}" {size} alt="{escape(alt)}" src="{source}">{below}{words}</figure>'


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


def write_page(path: Path, title: str, intro: str, sections: dict[str, str]) -> None:
    """Write the whole document to `path`, whole or not at all.

    Args:
        intro: plain text, its paragraphs parted by blank lines; one that starts with `$ ` holds commands and
            goes to the foot.
        sections: title -> HTML.

    Raises:
        UserError: it cannot be written.
    """
    paragraphs = [text.strip() for text in intro.split("\n\n") if text.strip()]
    prose = "".join(f"<p>{escape(text)}</p>" for text in paragraphs if not text.startswith("$ "))
    links = "".join(f'<a href="#part{i}">{escape(name)}</a>' for i, name in enumerate(sections))
    parts = (f"<h2>{escape(name)}</h2>{body}</section>" for name, body in sections.items())
    bodies = "".join(f'<section id="part{i}">{part}' for i, part in enumerate(parts))
    html = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{prose}<nav>{links}</nav></header><main>{bodies}</main>"
        f"{footer([text for text in paragraphs if text.startswith('$ ')])}</body></html>\n"
    )
    # A file name may hold bytes that are no text; they become question marks.
    atomic_write(path, lambda aside: aside.write_text(html, encoding="utf-8", errors="replace"))
