"""Maps brought to full size: bilinear, corners aligned."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

BAND_BYTES = 5 << 18  # of full-size maps at a time on a CPU: what its cache holds


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) at (height, width) `size`."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def maximum_of_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Largest channel of the sum of maps that are upsampled first: its value and, as uint8, its index.

    Args:
        maps: (1, C, h, w) each, of several h and w.
        size: (H, W), that of both results.
    """
    if maps[0].device.type == "cpu":
        return _in_bands(maps, size)
    value, index = sum(upsample(m, size) for m in maps)[0].max(0)
    return value, index.to(torch.uint8)


def _in_bands(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`maximum_of_sum` a few rows at a time, which never leave a CPU's cache.

    Upsampling is separable: along the width first, while the maps have few rows. A row of the result is then
    a weighted sum of the two rows next to it in each of the maps, so a band of them is one matrix product.
    """
    rows, weights = _wide_rows(maps, size)
    with _one_thread():
        return _maximum(rows, weights, size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Bands are too small for several threads: while files are decoded beside, these mostly wait in line."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _maximum(rows: Tensor, weights: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of `weights` (H, k) times `rows` (C, k, W) the largest channel, as `maximum_of_sum`, band by band."""
    nonzero = (weights != 0).to(torch.uint8)
    first = nonzero.argmax(1).tolist()
    end = (nonzero.shape[1] - nonzero.flip(1).argmax(1)).tolist()
    channels = len(rows)
    step = max(1, BAND_BYTES // (channels * size[1] * rows.element_size()))
    # Comparing with the maximum is fast over whole arrays, argmax is not. Of equals the first ranks highest.
    rank = torch.arange(channels, 0, -1, dtype=torch.uint8)[:, None, None]
    value, index = rows.new_empty(size), torch.empty(size, dtype=torch.uint8)
    for top in range(0, size[0], step):
        band = slice(top, top + step)
        used = slice(min(first[band]), max(end[band]))
        total = weights[band, used] @ rows[:, used]
        torch.amax(total, 0, out=value[band])
        highest = (total == value[band]).view(torch.uint8).mul_(rank).amax(0)
        torch.sub(channels, highest, out=index[band])
    return value, index


def _wide_rows(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows of all maps at full width (C, k, W), from top to bottom; their weights in the result (H, k)."""
    heights = [m.shape[2] for m in maps]
    order = torch.cat([torch.linspace(0, 1, height) for height in heights]).argsort()
    rows = torch.cat([upsample(m, (m.shape[2], size[1]))[0] for m in maps], 1)
    shares = [upsample(torch.eye(h, dtype=rows.dtype)[None, None], (size[0], h))[0, 0] for h in heights]
    return rows[:, order], torch.cat(shares, 1)[:, order]
