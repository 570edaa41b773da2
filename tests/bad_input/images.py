"""Bad images: no images, cut short, damaged, of absurd size, of too many bits, without rights."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bad_input.case import Case
from tests.bad_input.world import CITYSCAPES, GOOD, GTA5, NAMES, OWN, PREDICTED, RUN_FILES, SIZE

KIND = "images"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, bits: int = 8, color: int = 2, before: bytes = b"") -> bytes:
    """A PNG file that says whatever it is told to."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return SIGNATURE + _chunk(*parts[0]) + before + b"".join(_chunk(*part) for part in parts[1:])


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def _cut(share: float) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: min(round(share * len(whole)), len(whole) - 1)])

    return spoil


def _overwrite(share: float, count: int) -> Callable[[Path], None]:
    """Zeros over `count` bytes from a place on."""

    def spoil(path: Path) -> None:
        whole = bytearray(path.read_bytes())
        start = round(share * len(whole))
        whole[start : start + count] = bytes(count)
        path.write_bytes(whole)

    return spoil


def _saved(mode: str, form: str) -> Callable[[Path], None]:
    """An image of another mode or format under the same name."""

    def spoil(path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
        image = Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels.astype(np.uint16) * 256)
        file = io.BytesIO()
        (image if mode == "I;16" else image.convert(mode)).save(file, form)
        path.write_bytes(file.getvalue())

    return spoil


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(to: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(to)

    return spoil


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "empty": _write(b""),
    "one byte": _write(b"\x89"),
    "text": _write(b"<html>404 Not Found</html>" * 20),
    "zeros": _write(bytes(5000)),
    "a script": _write(b"#!/bin/sh\ntouch executed\n"),
    "a ZIP archive": _write(b"PK\x03\x04" + bytes(500)),
    "a PNG signature alone": _write(SIGNATURE),
    **{f"cut to {100 * share:g} %": _cut(share) for share in (0.001, 0.005, 0.1, 0.5, 0.9, 0.999)},
    "a damaged header": _overwrite(0, 30),
    "a damaged header's checksum": lambda path: path.write_bytes(
        path.read_bytes()[:29] + b"abcd" + path.read_bytes()[33:]
    ),
    "a damaged middle": _overwrite(0.5, 300),
    "no pixels": _write(png(SIZE[1], SIZE[0], b"")),
    "too few pixels": _write(png(SIZE[1], SIZE[0], bytes(300))),
    "no width": _write(png(0, SIZE[0], bytes(1000))),
    "sides of 60000": _write(png(60000, 60000, bytes(1000))),
    "sides of 10000 and few pixels": _write(png(10000, 10000, bytes(1000))),
    "sides of 4 thousand million": _write(png(2**32 - 1, 2**32 - 1, bytes(1000))),
    "an impossible depth": _write(png(SIZE[1], SIZE[0], bytes(5000), bits=7)),
    "a text that unpacks to gigabytes": _write(
        png(
            *(SIZE[1], SIZE[0], bytes(1000)),
            before=_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**27))),
        )
    ),
    "a 16-bit grey PNG": _saved("I;16", "PNG"),
    "a 16-bit TIFF": _saved("I;16", "TIFF"),
    "a float TIFF": _saved("F", "TIFF"),
    "a JPEG cut short": lambda path: (_saved("RGB", "JPEG")(path), _cut(0.5)(path)),
    "a WebP cut short": lambda path: (_saved("RGB", "WEBP")(path), _cut(0.5)(path)),
    "a GIF cut short": lambda path: (_saved("P", "GIF")(path), _cut(0.3)(path)),
    "a TIFF cut short": lambda path: (_saved("RGB", "TIFF")(path), _cut(0.5)(path)),
    "a PostScript program": _write(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 48\n(executed) (w) file\n"
    ),
    "a folder": _folder,
    "a named pipe": _pipe,
    "a link to nothing": _link("nowhere.png"),
    "a link to itself": lambda path: _link(path.name)(path),
    "a link to a device": _link("/dev/null"),
    "a link to an endless device": _link("/dev/zero"),
    "without rights": lambda path: path.chmod(0),
}
# Images that are unusual, and fine.
UNUSUAL: dict[str, Callable[[Path], object]] = {
    **{f"mode {mode}": _saved(mode, "PNG") for mode in ("L", "LA", "P", "1", "RGBA", "RGB")},
    "a CMYK JPEG": _saved("CMYK", "JPEG"),
    "a JPEG under another name": _saved("RGB", "JPEG"),
}
TRAIN_IMAGE = f"{CITYSCAPES}/leftImg8bit/train/{NAMES[0]}"
READERS = {
    "source": ("train_ms", GOOD["train_ms"], f"{GTA5}/images/00002.png", RUN_FILES),
    "target": ("train_ms", GOOD["train_ms"], TRAIN_IMAGE, RUN_FILES),
    "own": ("train_ms", (*GOOD["train_ms"], *OWN), "own/images/train/0.png", RUN_FILES),
    "predicted": ("generate_plabel_cityscapes", GOOD["generate_plabel_cityscapes"], TRAIN_IMAGE, PREDICTED),
    "evaluated": (
        *("evaluate_cityscapes", GOOD["evaluate_cityscapes"], TRAIN_IMAGE.replace("/train/", "/val/")),
        PREDICTED,
    ),
    "surveyed": ("check_data", GOOD["check_data"], f"{GTA5}/images/00002.png", ()),
    "segmented": ("segment", GOOD["segment"], "street.png", PREDICTED),
}


def at(place: str, spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda world: spoil(world / place)


def cases() -> Iterator[Case]:
    """Every spoilt image in every place where a script reads one."""
    for reader, (script, flags, place, adds) in READERS.items():
        for what, spoil in SPOILT.items():
            # check_data prints every fault, and then one line that names the set.
            named = ("gta5",) if script == "check_data" else (place,)
            if what.startswith("sides of 10000") and script not in (
                "segment",
                "check_data",
            ):  # the label's line names the label
                named = (Path(place).stem.removesuffix("_leftImg8bit"),)
            yield Case(KIND, f"{reader}: {what}", script, flags, named, at(place, spoil), adds=adds)
        yield Case(KIND, f"{reader}: gone", script, flags, (), at(f"{place}/../..", _empty))


def _empty(folder: Path) -> None:
    for file in sorted(folder.resolve().rglob("*.png")):
        file.unlink()


def accepted() -> Iterator[Case]:
    """Every unusual image in every place."""
    for reader, (script, flags, place, _) in READERS.items():
        for what, spoil in UNUSUAL.items():
            yield Case("good input is accepted", f"{reader}: {what}", script, flags, (), at(place, spoil))
