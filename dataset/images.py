"""Files of a data set: lists of names, scans, headers, decoded images and label ids.

A label reader is an object with `read(path) -> ids (H, W)` and `check(path, mode)`, which refuses by the
header alone what `read` could not use.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dataset import png
from dataset.labels import Color, format_counts

ID_MODES = ("1", "L", "P", "I", "I;16")  # one number a pixel
SPREAD_GREY = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey of so few bits by
HIGH_DEPTH_MODES = ("I", "I;16", "F")  # more than 8 bits: no photograph that could be shown as RGB
ORIENTATION = 0x0112  # EXIF: how a camera was held; only these formats carry it in their header
ORIENTED_FORMATS = ("JPEG", "MPO", "WEBP", "TIFF")
# What Pillow and the system raise for a file that is no image, damaged, absurdly large or misnamed.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# What Pillow only warns of, as an odd EXIF block or an image of 100 million pixels, is read like any other.
warnings.filterwarnings("ignore", module="PIL")


class DataError(Exception):
    """An image, label or list that cannot be used; the message names the file."""


@dataclass(frozen=True)
class IdReader:
    """One id a pixel: grey PNGs of 8 or 16 bits, and palette PNGs, whose indices are the ids."""

    def check(self, path: Path, mode: str) -> None:
        if mode not in ID_MODES:
            raise DataError(
                f"{path}: a label must hold one id a pixel, this image is of mode {mode}; save it as 8- or "
                "16-bit grey or as a palette image"
            )

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8, uint16 or int32."""
        try:
            data = path.read_bytes()
            if header := png.read_header(data):
                self.check(path, header.mode)
                if (ids := png.decode(data)) is not None:
                    return ids
            with open_image(BytesIO(data)) as image:
                self.check(path, image.mode)
                return _ids(image)
        except UNREADABLE as error:
            raise _unreadable(path, error) from error


@dataclass(frozen=True)
class FirstChannelReader:
    """The id in the first channel of a PNG with several, of 8 or 16 bits each, as SYNTHIA's.

    Pillow keeps the high byte of such files, which is 0 for every id. Where kornia-rs does not decode them,
    Pillow's decoder is told to keep the low byte instead, so the file is decoded for either. (torchvision
    reads both at once, but crashes on damaged files, and is about to give its decoders up.)
    """

    def check(self, path: Path, mode: str) -> None:
        pass  # every image has a first channel

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 or uint16."""
        try:
            if (ids := png.decode(path.read_bytes())) is not None:
                return ids if ids.ndim == 2 else ids[..., 0]
            with open_image(path) as image:
                raw_mode = _raw_mode(image)
                if image.mode in ID_MODES:
                    return _ids(image)
                if raw_mode == "LA;16B":
                    raise DataError(f"{path}: 16-bit grey with alpha; leave the alpha channel out")
                high = np.asarray(image.getchannel(0))
            with open_image(path) as image:
                image.verify()  # its checksums, which decoding passes over
            if raw_mode not in LOW_BYTES:
                return high
            with open_image(path) as image:
                image.tile = [(*tile[:3], LOW_BYTES[raw_mode]) for tile in image.tile]
                low = np.asarray(image.getchannel(0))
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
        return high.astype(np.uint16) << 8 | low


# How Pillow names the bytes of a 16-bit PNG when it keeps the high ones, and when it is to keep the low ones.
LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}


def _ids(image: Image.Image) -> np.ndarray:
    """The numbers that an image of one channel holds."""
    spread = SPREAD_GREY.get(_raw_mode(image), 1)  # before decoding, which forgets it
    ids = np.asarray(image)
    return ids // spread if spread > 1 else ids


def _raw_mode(image: Image.Image) -> str | None:
    """How the bytes in a PNG file are laid out; None for other files."""
    return image.tile[0][3] if image.format == "PNG" and image.tile else None


@dataclass(frozen=True)
class ColorReader:
    """Colours in place of ids: a pixel's id is the place of its colour among `colors`."""

    colors: tuple[Color, ...]

    @cached_property
    def _place(self) -> np.ndarray:
        """1 + the place of every packed colour, 0 for the others; the system maps only what is touched."""
        place = np.zeros(1 << 24, np.uint16)
        place[_packed(np.array(self.colors, np.uint8))] = 1 + np.arange(len(self.colors))
        return place

    def check(self, path: Path, mode: str) -> None:
        pass  # every image has colours

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint16."""
        try:
            with open_image(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
        place = self._place[_packed(pixels)]
        unknown = place == 0
        if unknown.any():
            raise DataError(
                f"{path}: no class has the colour {format_counts(pixels[unknown])}; add it to a class or to "
                "the ignored ones in the description"
            )
        return place - np.uint16(1)

    def __getstate__(self) -> dict:
        return {"colors": self.colors}  # a worker builds its table itself


def _packed(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


LabelReader = IdReader | FirstChannelReader | ColorReader


MAX_LIST = 2**26  # bytes: a million names
# An absolute name or a step up, in the spelling of any system.
LEAVES = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)")
NO_NAME = re.compile(r"[\x00-\x1f\x7f]|(?:^|[/\\])\.?$")  # control characters, a folder
SHOWN = 80  # characters of a name that is none


def read_list(path: Path) -> list[str]:
    """The names in a list file, one a line; blank lines do not count."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_LIST + 1)
        text = data.decode("utf-8-sig") if len(data) <= MAX_LIST else ""
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot read this list of names ({error}); give a UTF-8 text with one name a line"
        ) from error
    if len(data) > MAX_LIST:
        raise DataError(f"{path}: this is no list of names, it is too long; give one name a line")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: the list is empty; write one image name a line")
    for name in names:
        if LEAVES.search(name):
            raise DataError(
                f"{path}: the name {name[:SHOWN]} leaves the data folder; names are relative to it"
            )
        if NO_NAME.search(name):
            raise DataError(f"{path}: {name[:SHOWN]} is no name of a file; write one image name a line")
    return names


# Registered with Pillow, but no pictures that it decodes by itself; EPS is a program, which others execute.
NO_PICTURES = ("PDF", "MPEG", "HDF5", "GRIB", "BUFR", "EPS", "WMF")


@lru_cache
def picture_suffixes() -> tuple[str, ...]:
    """Endings of the files that Pillow reads as pictures, in lower case."""
    kinds, formats = Image.registered_extensions(), picture_formats()
    return tuple(sorted(suffix for suffix, kind in kinds.items() if kind in formats))


@lru_cache
def picture_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that it reads as pictures."""
    Image.init()  # loads Pillow's plugins
    return tuple(kind for kind in Image.ID if kind not in NO_PICTURES)


def open_image(file: Path | BytesIO) -> Image.Image:
    """Pillow's picture in a file, by content; of no format that is a program or needs another one to run."""
    return Image.open(file, formats=picture_formats())


def scan(
    folder: Path,
    suffixes: Sequence[str],
    excluded: str | None = None,
    excluded_folders: Sequence[Path] = (),
) -> list[str]:
    """Names of the files under `folder` that end in one of `suffixes`, relative and sorted.

    The case of an ending does not matter; hidden files, those that end in `excluded` and those below
    `excluded_folders` are passed over.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)

    def walk(relative: str) -> Iterator[str]:
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                name = f"{relative}/{entry.name}" if relative else entry.name
                if entry.name.startswith(".") or (excluded and entry.name.endswith(excluded)):
                    continue
                if entry.name.lower().endswith(endings):
                    yield name
                elif entry.is_dir() and Path(entry.path) not in excluded_folders:
                    yield from walk(name)

    names = sorted(walk(""))
    if not names:
        what = endings[0] if len(endings) == 1 else ".png, .jpg or another ending of pictures"
        raise DataError(f"{folder}: no file here ends in {what}; put the images there or give a list")
    return names


def read_header(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and mode of an image file, without decoding it."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            start = file.read(png.HEADER.size)
            is_png = start.startswith(png.SIGNATURE)
            file.seek(-len(png.END), os.SEEK_END)
            complete = not is_png or file.read() == png.END
        if header := png.read_header(start):
            size, mode = (header.width, header.height), header.mode
        else:
            with open_image(path) as image:
                size, mode = _upright_size(image), image.mode
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; complete the data set or take it off the list") from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not complete:
        raise DataError(f"{path}: the file is cut short; copy it again")
    return size, mode


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; of a named pipe nobody may ever write the other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_picture_mode(path: Path, mode: str) -> None:
    """Refuse what Pillow would clip to white: images of more than 8 bits a channel in one channel."""
    if mode in HIGH_DEPTH_MODES:
        raise DataError(f"{path}: an image of mode {mode}, more than 8 bits; convert it to 8-bit RGB")


class Picture:
    """An image file that is read, and decoded as far as it is looked at: `size`, (width, height) upright."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._data = path.read_bytes()
            self._header = png.read_header(self._data)
            if self._header:
                self.size, mode = (self._header.width, self._header.height), self._header.mode
            else:
                with open_image(BytesIO(self._data)) as image:
                    self.size, mode = _upright_size(image), image.mode
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
        check_picture_mode(path, mode)

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """What lies between left, top, right and bottom, as RGB; of a PNG the rows below stay packed."""
        left, top, right, bottom = box
        data = self._data
        if self._header and bottom < self._header.height and png.intact(data):
            data = png.first_rows(data, bottom)
        try:
            if self._header and (self._header.bits, self._header.color) == (8, png.RGB):
                pixels = png.decode(data)
                if pixels is not None:
                    return _cut_out(pixels, box)
            with open_image(BytesIO(data)) as image:
                if _orientation(image) != 1:
                    image = ImageOps.exif_transpose(image)
                return image.crop(box).convert("RGB")
        except UNREADABLE as error:
            raise _unreadable(self._path, error) from error


def _cut_out(pixels: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of contiguous pixels (H, W, 3), copied once."""
    left, top, right, bottom = box
    from_corner = pixels[top:bottom].reshape(-1)[3 * left :]
    row_bytes = 3 * pixels.shape[1]
    return Image.frombytes("RGB", (right - left, bottom - top), from_corner, "raw", "RGB", row_bytes)


def decode_image(path: Path) -> Image.Image:
    """An image file as RGB, upright where a camera noted how it was held."""
    picture = Picture(path)
    return picture.crop((0, 0, *picture.size))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) in (5, 6, 7, 8)  # by a quarter, mirrored or not
    return image.size[::-1] if turned else image.size


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ORIENTATION, 1) if image.format in ORIENTED_FORMATS else 1


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable image ({error}); copy it again or take it off the list")


def check_sizes(path: Path, label_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    """Refuse a label whose (width, height) is not its image's."""
    if tuple(label_size) != tuple(image_size):
        raise DataError(
            f"{path}: the label is {label_size[0]}x{label_size[1]} pixels, its image "
            f"{image_size[0]}x{image_size[1]}; they must be of one size"
        )
