"""Fast PNG: decode the published data sets' files, and encode maps of one byte per pixel.

kornia-rs (Rust) decodes two to three times as fast as Pillow, with the same pixels. Where it is not
installed, and for unusual files, `decode` returns None and the caller falls back on Pillow.

`compress` uses one filter, the difference from the row above, which suits label and heat maps; Pillow tries
five on every row and is many times as slow. ISA-L compresses; where it is not installed, zlib's run-length
mode does, at a quarter of the speed or less.
"""

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

try:
    from kornia_rs.io import decode_image_png_u8 as decode_8_bits
    from kornia_rs.io import decode_image_png_u16 as decode_16_bits
except ImportError:  # not installed, or a version with other names
    decode_8_bits = decode_16_bits = None
try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"IEND\xaeB`\x82"
CHUNK = struct.Struct(">I4s")  # length and kind; data and a checksum follow
HEADER = struct.Struct(">8s4s4sIIBBBBBI")  # signature, length, kind, the fields of IHDR, its checksum
CHECKED = slice(12, 29)  # the bytes of the header that its checksum covers
HEIGHT, CHECKSUM = slice(20, 24), slice(29, 33)
GREY, RGB, PALETTE = 0, 2, 3  # colour types
# (bits, colour type) -> Pillow's mode; `;16` for colours that Pillow would cut to 8 bits
COMMON = {(8, GREY): "L", (8, PALETTE): "P", (8, RGB): "RGB", (16, GREY): "I;16", (16, RGB): "RGB;16"}
WINDOW = 2**14  # bytes at either end of a file in which notes about the picture are sought
# How an EXIF orientation may be noted: in a chunk of its own, or under these keywords.
ORIENTATION_NOTES = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
NOTE = b"Comment\0"  # before the text of a note
UP = 2  # the filter that stores differences from the row above
ISAL_LEVEL = 1  # 0 is hardly faster and its files are larger


class Header(NamedTuple):
    """What IHDR holds of the kinds of PNG that `decode` can decode."""

    width: int
    height: int
    mode: str  # as in `COMMON`


def read_header(start: bytes, end: bytes | None = None) -> Header | None:
    """The header of a PNG that `decode` can decode and that need not be turned; None for any other file.

    `start` and `end` are the file's `WINDOW`s, or `start` is all of it.
    """
    if len(start) < HEADER.size:
        return None
    signature, _, kind, width, height, bits, color, _, _, interlaced, checksum = HEADER.unpack_from(start)
    common = (signature, kind) == (SIGNATURE, b"IHDR") and (bits, color) in COMMON and not interlaced
    limit = Image.MAX_IMAGE_PIXELS or 0  # Pillow warns of larger images or refuses them
    if not common or not 0 < width * height <= limit or zlib.crc32(start[CHECKED]) != checksum:
        return None
    turned = may_be_turned(start, start if end is None else end)
    return None if turned else Header(width, height, COMMON[bits, color])


def decode(data: bytes) -> np.ndarray | None:
    """RGB (H, W, 3), or grey levels or palette indices (H, W), uint8 or uint16; None: use Pillow."""
    header = read_header(data)
    decoder = decode_16_bits if header and header.mode.endswith(";16") else decode_8_bits
    if not header or not decoder:
        return None
    colored = header.mode.startswith("RGB")
    try:
        pixels = np.asarray(decoder(data, (header.height, header.width), "rgb" if colored else "mono"))
    except Exception:  # kornia-rs raises nothing more specific
        return None
    return pixels if colored else pixels[..., 0]


def may_be_turned(start: bytes, end: bytes) -> bool:
    """Whether a PNG may note at its `start` or `end` that its picture is to be turned.

    Also where bytes follow its last chunk: the notes are then anywhere before them.
    """
    start, end = start[:WINDOW], end[-WINDOW:]
    before = start[: start.find(b"IDAT")]
    return not end.endswith(END) or any(note in before or note in end for note in ORIENTATION_NOTES)


def intact(data: bytes) -> bool:
    """Whether every chunk of the PNG `data` matches its checksum, up to the end."""
    view, place = memoryview(data), len(SIGNATURE)
    while place + CHUNK.size <= len(data):
        length, kind = CHUNK.unpack_from(data, place)
        end = place + CHUNK.size + length
        if zlib.crc32(view[place + 4 : end]).to_bytes(4, "big") != view[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        place = end + 4
    return False


def first_rows(data: bytes, rows: int) -> bytes:
    """The PNG `data` with a header that claims only `rows` rows, so that any decoder stops after them.

    The decoder then never reaches the checksums behind these rows; check `intact` first.
    """
    header = bytearray(data[: HEADER.size])
    header[HEIGHT] = struct.pack(">I", rows)
    header[CHECKSUM] = struct.pack(">I", zlib.crc32(header[CHECKED]))
    return b"".join((header, memoryview(data)[HEADER.size :]))


def compress(pixels: np.ndarray) -> bytes:
    """The compressed pixels (H, W) uint8 of a PNG file, the same with and without a palette."""
    rows = np.empty((pixels.shape[0], 1 + pixels.shape[1]), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    if isal_zlib is not None:
        return isal_zlib.compress(rows, ISAL_LEVEL)
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, strategy=zlib.Z_RLE)
    return packer.compress(rows) + packer.flush()


def png_file(
    size: tuple[int, int], data: bytes, palette: np.ndarray | None = None, note: str | None = None
) -> bytes:
    """A PNG file of `size` (height, width) from `compress`ed pixels: grey, or in a palette (256, 3) uint8.

    Args:
        note: Latin-1 text for `read_note`.
    """
    height, width = size
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if palette is None else PALETTE, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette.tobytes()))
    if note is not None:
        chunks.insert(1, (b"tEXt", NOTE + note.encode("latin-1")))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def read_note(path: Path) -> str | None:
    """The note that `png_file` wrote behind the header; None if there is none, or no such file."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(HEADER.size)
        head = file.read(CHUNK.size)
        length, kind = CHUNK.unpack(head) if len(head) == CHUNK.size else (0, b"")
        content = file.read(length) if kind == b"tEXt" and length < WINDOW else b""
        if content.startswith(NOTE):
            return content[len(NOTE) :].decode("latin-1")
    return None


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return CHUNK.pack(len(content), kind) + content + struct.pack(">I", checksum)
