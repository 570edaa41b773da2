"""The files of a data set: lists of names, folder scans, headers, images and label ids."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from dataset import png
from dataset.labels import IDS, Color, format_counts

ID_MODES = ("1", "L", "P", "I", "I;16")  # one number per pixel
GREY_FACTORS = {"L;2": 85, "L;4": 17}  # Pillow multiplies 2- and 4-bit grey by these
HIGH_DEPTH_MODES = ("I", "I;16", "F")  # more than 8 bits in one channel: Pillow would clip them to white
DEEP = ";16"  # after the mode of colours with more than 8 bits, of which Pillow would keep the high ones
ORIENTATION = 0x0112  # EXIF tag: how the camera was held
TURNED = (5, 6, 7, 8)  # orientations by 90 degrees, mirrored or not
IMAGE_WIDTH, IMAGE_LENGTH, BITS_PER_SAMPLE = 256, 257, 258  # TIFF tags
Image.init()  # load all of Pillow's plugins
# Registered with Pillow, which cannot decode them itself; EPS is a program for an external interpreter.
NO_PICTURES = ("PDF", "MPEG", "HDF5", "GRIB", "BUFR", "EPS", "WMF")
PICTURE_FORMATS = tuple(kind for kind in Image.ID if kind not in NO_PICTURES)
PICTURE_SUFFIXES = tuple(s for s, kind in Image.registered_extensions().items() if kind in PICTURE_FORMATS)
# Raised by Pillow and the system for files that are not images, damaged, absurdly large or misnamed.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# Pillow warns of odd EXIF blocks and of images above 100 million pixels; both can be read.
warnings.filterwarnings("ignore", module="PIL")


class DataError(Exception):
    """An image, label, list or description that cannot be used; the message names the file."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors in reading an image file into a `DataError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; add it or remove it from the list") from error
    except UNREADABLE as error:
        raise DataError(
            f"{path}: not a readable image ({error}); copy it again or remove it from the list"
        ) from error


class LabelReader:
    """Decodes a label file into ids."""

    def check(self, path: Path, mode: str) -> None:
        """Reject a file by its mode in Pillow if `read` could not use it."""

    def read(self, path: Path) -> np.ndarray:
        """The ids (H, W).

        Raises:
            DataError: the file cannot be read or used.
        """
        raise NotImplementedError


class IdReader(LabelReader):
    """One id per pixel: grey PNGs of 8 or 16 bits, or palette PNGs, whose indices are the ids."""

    def check(self, path: Path, mode: str) -> None:
        if mode not in ID_MODES:
            raise DataError(
                f"{path}: a label needs one id per pixel, but this image has mode {mode}; save it as 8- or "
                "16-bit grey or as a palette image"
            )

    def read(self, path: Path) -> np.ndarray:
        with _readable(path):
            data = path.read_bytes()
            if header := png.read_header(data):
                self.check(path, header.mode)
                if (ids := png.decode(data)) is not None:
                    return ids if ids.ndim == 2 else ids[..., 0]
            with open_image(BytesIO(data)) as image:
                self.check(path, mode_of(image))
                single = image.mode in ID_MODES
                if not single and is_deep(mode_of(image)):
                    image.verify()  # raises if the file is damaged
                    # Pillow would keep only the high bytes, which are 0 in SYNTHIA.
                    raise DataError(
                        f"{path}: more than 8 bits per channel; save it as PNG, RGB and not interlaced "
                        "(which takes the package kornia-rs to read)"
                    )
                factor = GREY_FACTORS.get(image.tile[0][3] if image.tile else None, 1)
                ImageOps.exif_transpose(image, in_place=True)
                ids = np.asarray(image if single else image.getchannel(0))
                return ids // factor if factor > 1 else ids


class FirstChannelReader(IdReader):
    """The id in the first channel of a PNG with 8 or 16 bits per channel, like SYNTHIA's labels."""

    def check(self, path: Path, mode: str) -> None:
        """Every image has a first channel."""


def mode_of(image: Image.Image) -> str:
    """Pillow's mode of an image, with `DEEP` if it has just been opened and decoding would lose bits."""
    tiles = getattr(image, "tile", None)  # of a file, until it is decoded
    layout = tiles[0][3] if tiles else ""  # a name, or a tuple that begins with one
    name, *numbers = layout if isinstance(layout, tuple) and layout else (layout,)
    deep = (
        max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) > 8
        or DEEP in str(name)
        or (image.format == "PPM" and numbers and numbers[-1] > 255)
        or (image.format == "JPEG2000" and tiles and _jpeg2000_bits(image.fp) > 8)
    )
    return image.mode + DEEP if deep and image.mode not in HIGH_DEPTH_MODES else image.mode


def _jpeg2000_bits(file: BinaryIO) -> int:
    """Bits per channel: of the box `ihdr`, in a bare codestream of its first segment (ISO 15444-1)."""
    place = file.tell()
    file.seek(0)
    start = file.read(png.WINDOW)
    file.seek(place)
    depth = start.find(b"ihdr") + 14 if b"ihdr" in start else 42
    return (start[depth] & 127) + 1


def is_deep(mode: str) -> bool:
    """Whether an image of this `mode_of` has more than 8 bits per channel."""
    return mode in HIGH_DEPTH_MODES or mode.endswith(DEEP)


@dataclass(frozen=True)
class ColorReader(LabelReader):
    """Colours instead of ids: a pixel's id is the index of its colour in `colors`.

    With `others`, any other colour is `NO_COLOR` instead of an error: the blended ones along smooth edges.
    """

    colors: tuple[Color, ...]
    others: bool = False

    def check(self, path: Path, mode: str) -> None:
        _check_picture_mode(path, mode)

    def read(self, path: Path) -> np.ndarray:
        with _readable(path), open_image(BytesIO(path.read_bytes())) as image:
            self.check(path, mode_of(image))
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.asarray(image.convert("RGB"))
        index = _color_index(self.colors)[_packed(pixels)]
        if not self.others and (unknown := index == 0).any():
            raise DataError(
                f"{path}: no class has the colour {format_counts(pixels[unknown])}; add it to a class or to "
                "the ignored colours in the description (ignore: others for every colour without a class)"
            )
        return index - np.uint16(1)


NO_COLOR = IDS - 1  # id 0 minus 1, in 16 bits


@lru_cache
def _color_index(colors: tuple[Color, ...]) -> np.ndarray:
    """1 + the index of each packed colour, 0 for the others; untouched pages are never allocated."""
    index = np.zeros(1 << 24, np.uint16)
    index[_packed(np.array(colors, np.uint8))] = 1 + np.arange(len(colors))
    return index


def _packed(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


# Absolute paths and parent folders, as any system spells them: lists move between machines.
LEAVES_FOLDER = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|^\.$")
SHOWN = 80  # characters of a bad name in a message


def read_list(path: Path) -> list[str]:
    """The names in a list file, one per line; blank lines are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot read this list of names ({error}); write UTF-8 text with one name per line"
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: the list is empty; write one image name per line")
    for name in names:
        if LEAVES_FOLDER.search(name):
            raise DataError(
                f"{path}: the name {name[:SHOWN]} leaves the data folder; names are relative to it"
            )
    return names


def open_image(file: Path | BytesIO) -> Image.Image:
    """The image in a file, opened by Pillow; the format is recognised by content, not by suffix.

    Decode only from bytes in memory: Pillow forgets to turn some TIFFs that it maps from a path.
    """
    return Image.open(file, formats=PICTURE_FORMATS)


def scan(
    folder: Path,
    suffixes: Sequence[str],
    excluded: str | None = None,
    excluded_folders: Sequence[Path] = (),
) -> list[str]:
    """Relative names of all files under `folder` with one of `suffixes` (in any case), sorted.

    Hidden files, names that end in `excluded` and everything in `excluded_folders` are skipped.

    Raises:
        DataError: a link leads back to a folder above it.
    """
    suffixes = tuple(suffix.lower() for suffix in suffixes)

    def walk(relative: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        here = os.path.realpath(folder / relative)
        if here in above:
            raise DataError(f"{folder / relative}: this link leads back to a folder above it; remove it")
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                name = f"{relative}/{entry.name}" if relative else entry.name
                if entry.name.startswith(".") or (excluded and entry.name.endswith(excluded)):
                    continue
                if entry.name.lower().endswith(suffixes):
                    yield name
                elif entry.is_dir() and Path(entry.path) not in excluded_folders:
                    yield from walk(name, (*above, here))

    names = sorted(walk(""))
    if not names:
        what = suffixes[0] if len(suffixes) == 1 else ".png, .jpg or another picture suffix"
        raise DataError(
            f"{folder}: no file here ends in {what}; put the images there, or name another folder or a list"
        )
    return names


def read_header(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and Pillow's mode of an image file, without decoding it.

    Raises:
        DataError: the file is missing, cut short or not an image.
    """
    with _readable(path):
        # Without blocking: a named pipe may never get a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            start = file.read(png.WINDOW)  # of a device, reading on would not end
            file.seek(max(0, file.seek(0, os.SEEK_END) - png.WINDOW))
            end = file.read(png.WINDOW)
            if start.startswith(png.SIGNATURE) and not end.endswith(png.END):
                file.seek(0)
                if png.END not in file.read():  # other bytes may follow
                    raise DataError(f"{path}: the file is cut short; copy it again")
        return _size_and_mode(start, end, path)


def _size_and_mode(start: bytes, end: bytes, file: Path | BytesIO) -> tuple[tuple[int, int], str]:
    """The size, turned upright, and the mode of the image in a file that begins and ends so."""
    if header := png.read_header(start, end):
        return (header.width, header.height), header.mode
    with open_image(file) as image:
        size, mode = image.size, mode_of(image)
        if image.format == "TIFF":  # as stored: later versions of Pillow have turned `size` already
            size = image.tag_v2[IMAGE_WIDTH], image.tag_v2[IMAGE_LENGTH]
        # Pillow decodes a PNG to look for EXIF behind its pixels.
        turnable = image.format != "PNG" or png.may_be_turned(start, end)
        turned = turnable and image.getexif().get(ORIENTATION) in TURNED
        return size[::-1] if turned else size, mode


def _check_picture_mode(path: Path, mode: str) -> None:
    """Reject images of more than 8 bits, of which Pillow would clip grey to white and cut colours."""
    if is_deep(mode):
        raise DataError(
            f"{path}: the image has mode {mode}, more than 8 bits per channel; convert it to 8-bit RGB"
        )


class Picture:
    """An image file read into memory and decoded only where it is cropped.

    `size` is (width, height), upright if the camera noted how it was held.
    """

    def __init__(self, path: Path):
        self._path = path
        with _readable(path):
            self._data = path.read_bytes()
            self._header = png.read_header(self._data)
            self.size, mode = _size_and_mode(self._data, self._data, BytesIO(self._data))
        _check_picture_mode(path, mode)

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The box (left, top, right, bottom) as RGB; rows of a PNG below it are not decompressed."""
        return Image.fromarray(self.pixels(box))

    def pixels(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """The same as an array (H, W, 3) uint8."""
        (left, top, right, bottom), data = box, self._data
        if self._header and bottom < self._header.height and png.intact(data):
            data = png.first_rows(data, bottom)
        with _readable(self._path):
            if self._header and self._header.mode == "RGB" and (pixels := png.decode(data)) is not None:
                return pixels[top:bottom, left:right]
            with open_image(BytesIO(data)) as image:
                ImageOps.exif_transpose(image, in_place=True)
                return np.array(image.crop(box).convert("RGB"))


def decode_image(path: Path) -> Image.Image:
    """The whole image as RGB, turned upright by its EXIF orientation."""
    picture = Picture(path)
    return picture.crop((0, 0, *picture.size))


def open_pair(
    image_path: Path, label_path: Path | None, reader: LabelReader
) -> tuple[Picture, np.ndarray | None]:
    """An image and its label ids (H, W), None without a `label_path`.

    Raises:
        DataError: a file cannot be read, or their sizes differ.
    """
    picture = Picture(image_path)
    if label_path is None:
        return picture, None
    ids = reader.read(label_path)
    check_sizes(label_path, ids.shape[::-1], picture.size)
    return picture, ids


def check_image(path: Path) -> tuple[int, int]:
    """The (width, height) of an image whose header shows that it can be used.

    Raises:
        DataError: the file is missing, cut short, not an image, or has more than 8 bits per pixel.
    """
    size, mode = read_header(path)
    _check_picture_mode(path, mode)
    return size


def check_label(path: Path, reader: LabelReader, image_size: tuple[int, int]) -> None:
    """The same for a label file, which must have its image's size and a mode that `reader` reads."""
    size, mode = read_header(path)
    reader.check(path, mode)
    check_sizes(path, size, image_size)


def check_sizes(path: Path, label_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Reject a label whose (width, height) differs from its image's."""
    if tuple(label_size) != tuple(image_size):
        raise DataError(
            f"{path}: the label is {label_size[0]}x{label_size[1]} pixels, its image "
            f"{image_size[0]}x{image_size[1]}; they must have the same size"
        )
