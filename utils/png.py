"""PNG files of one byte a pixel, encoded many times as fast as by Pillow, to files of similar size.

Each row is stored as its difference from the row above, the one filter that suits label and heat maps,
where Pillow tries all five on every row. ISA-L compresses; where it is not installed zlib does, four times or
more as slowly, looking for nothing but repeated bytes.
"""

import struct
import zlib

import numpy as np

try:
    from isal import isal_zlib
except ImportError:  # not installed
    isal_zlib = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
UP = 2  # the filter
ISAL_LEVEL = 1  # 0 is hardly faster, and its files are larger
GREY, INDEXED = 0, 3  # colour types


def compress(pixels: np.ndarray) -> bytes:
    """What a PNG file holds of (H, W) uint8, the same with and without a palette."""
    rows = np.empty((pixels.shape[0], 1 + pixels.shape[1]), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    if isal_zlib is not None:
        return isal_zlib.compress(rows, ISAL_LEVEL)
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, strategy=zlib.Z_RLE)
    return packer.compress(rows) + packer.flush()


def png_file(size: tuple[int, int], data: bytes, palette: np.ndarray | None = None) -> bytes:
    """A grey PNG of (height, width) `size`, or, with a palette (256, 3) uint8, one in its colours."""
    height, width = size
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if palette is None else INDEXED, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette.tobytes()))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
