"""Maps brought to full size: bilinear, corners aligned."""

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.parts import one_thread

TILE = (16, 32)  # height, width: small enough for few channels to compete, large enough to be few
PAIRS = 1024  # of a tile and a channel at a time: what a CPU's cache holds
SLACK = 100  # units of rounding, far more than interpolation adds up


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) at (height, width) `size`."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def maximum_of_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Largest channel of the sum of maps that are upsampled first: its value and, as uint8, its index.

    Of equal channels the first is taken.

    Args:
        maps: (1, C, h, w) each, of several h and w.
        size: (H, W), that of both results.
    """
    if maps[0].device.type == "cpu":
        with one_thread(maps[0].device):
            return _in_tiles([m[0].contiguous() for m in maps], size)
    value, index = sum(upsample(m, size) for m in maps)[0].max(0)
    return value, index.to(torch.uint8)


class _Axis(NamedTuple):
    """One side of a map, cut into T tiles of the result: what each of them is interpolated from.

    `places` (T, reach) of the map; `weights` (T, tile, reach) of these in each row or column of the result.
    The last tile may reach over the result's end, which it repeats.
    """

    places: Tensor
    weights: Tensor


def _in_tiles(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`maximum_of_sum` of (C, h, w); in each tile of the result only the channels that may win are computed.

    An interpolated value lies between the least and the greatest that it is interpolated from. Where a
    channel's greatest is below another's least it can win nowhere, and in most tiles of a prediction few are
    left. Tiles with the same number of channels left are computed together.
    """
    axes = [
        tuple(_axis(*sides, m.dtype) for sides in zip(m.shape[1:], size, TILE, strict=True)) for m in maps
    ]
    highest, lowest = (
        sum(_extreme(pick, m, *sides) for m, sides in zip(maps, axes, strict=True))
        for pick in (torch.maximum, torch.minimum)
    )
    slack = SLACK * torch.finfo(highest.dtype).eps * highest.abs().amax(0)
    may_win = ~(highest < lowest.amax(0) - slack)  # nan may win too
    grid = may_win.shape[1:]
    may_win = may_win.flatten(1)
    number = may_win.sum(0)
    pixels = TILE[0] * TILE[1]
    value = highest.new_empty(may_win.shape[1], pixels)
    index = torch.empty(value.shape, dtype=torch.uint8)
    for count in number.unique().tolist():
        for tiles in (number == count).nonzero()[:, 0].split(max(1, PAIRS // count)):
            channels = may_win[:, tiles].T.nonzero()[:, 1].view(-1, count)  # from the first to the last
            total = _interpolated(maps, axes, channels.T, tiles).view(count, -1, pixels)
            best, place = _first_maximum(total)
            value[tiles] = best
            index[tiles] = channels.to(torch.uint8).gather(1, place.long())
    return _untiled(value, grid, size), _untiled(index, grid, size)


@lru_cache
def _axis(length: int, whole: int, tile: int, dtype: torch.dtype) -> _Axis:
    """Of a map's side of `length` brought to `whole`, in tiles of `tile`."""
    shares = upsample(torch.eye(length, dtype=dtype)[None, None], (whole, length))[0, 0]
    shares = torch.cat((shares, shares[-1:].expand(-whole % tile, -1))).view(-1, tile, length)
    used = (shares != 0).any(1).to(torch.uint8)
    first, end = used.argmax(1), length - used.flip(1).argmax(1)
    reach = int((end - first).max())
    places = first.clamp(max=length - reach)[:, None] + torch.arange(reach)
    return _Axis(places, shares.gather(2, places[:, None].expand(-1, tile, -1)))


def _extreme(pick: Callable[[Tensor, Tensor], Tensor], m: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """The greatest or least value that each tile is interpolated from: (C, h, w) -> (C, tiles, tiles)."""
    for dim, axis in ((1, rows), (2, columns)):
        m = reduce(pick, (m.index_select(dim, place) for place in axis.places.T))
    return m


def _interpolated(
    maps: Sequence[Tensor], axes: Sequence[tuple[_Axis, _Axis]], channels: Tensor, tiles: Tensor
) -> Tensor:
    """Sum of the upsampled maps in some tiles (T,), channels (k, T) of each: (k * T, *TILE)."""
    across = len(axes[0][1].places)
    tiles, channels = tiles.expand(len(channels), -1).flatten(), channels.flatten()
    row, column = tiles.div(across, rounding_mode="floor"), tiles % across
    wide, shares = [], []  # along the width first, while there are few rows
    for m, (rows, columns) in zip(maps, axes, strict=True):
        _, height, width = m.shape
        lines = (channels * height)[:, None] + rows.places.index_select(0, row)
        places = (lines * width)[:, :, None] + columns.places.index_select(0, column)[:, None]
        window = m.view(-1).index_select(0, places.flatten()).view(places.shape)
        wide.append(window @ columns.weights.index_select(0, column).mT)
        shares.append(rows.weights.index_select(0, row))
    return torch.cat(shares, 2) @ torch.cat(wide, 1)


def _first_maximum(values: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of (k, T, P) over k and, as uint8, the first place that has it."""
    if len(values) == 1:
        return values[0], torch.zeros(values.shape[1:], dtype=torch.uint8)
    best = values.amax(0)
    # Comparing with the maximum is fast over whole arrays, argmax is not. Of equals the first ranks highest.
    rank = torch.arange(len(values), 0, -1, dtype=torch.uint8)[:, None, None]
    highest = (~(values < best)).view(torch.uint8).mul_(rank).amax(0)
    return best, len(values) - highest


def _untiled(tiles: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Tiles (T, pixels) put together and cut to (H, W) `size`."""
    whole = tiles.view(*grid, *TILE).transpose(1, 2).reshape(grid[0] * TILE[0], grid[1] * TILE[1])
    return whole[: size[0], : size[1]].contiguous()
