"""Argmax and maximum over classes of summed maps after upsampling: a prediction's label and score.

On a CPU, upsampling 19 classes to 2048x1024 takes longer than a small network. But an interpolated value lies
between the smallest and the largest value it is interpolated from: a class whose maximum over a tile is below
another's minimum cannot win there. In most tiles one or two classes remain, and only these are interpolated.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce

import torch
from torch import Tensor

from utils.upsampling import upsample

TILE = (16, 32)  # height, width in pixels: smaller tiles have fewer candidates, larger ones less overhead
CHUNK = 1024  # (tile, class) pairs interpolated at once: they fit into a CPU's cache
ROUNDING = 100  # machine epsilons, far more than interpolation accumulates
Axis = tuple[Tensor, Tensor]


def upsampled_sum(maps: Iterable[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum of maps (1, C, h, w) of any sizes upsampled to `size`, (C, H, W); only two are alive at a time."""
    return reduce(Tensor.add_, (upsample(m, size) for m in maps))[0]


def max_of_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sum of maps (1, C, h, w) upsampled to `size`: maximum over C (H, W) and first argmax (H, W) uint8."""
    if maps[0].device.type != "cpu":
        value, label = upsampled_sum(maps, size).max(0)
        return value, label.to(torch.uint8)
    maps = [m[0] for m in maps]
    axes = [[_axis(*side, m.dtype) for side in zip(m.shape[1:], size, TILE, strict=True)] for m in maps]
    cells = [(m, y, x) for m, ((y, _), (x, _)) in zip(maps, axes, strict=True)]
    upper = sum(m[:, y].amax(2)[..., x].amax(3) for m, y, x in cells)  # (C, tile rows, tile columns)
    lower = sum(m[:, y].amin(2)[..., x].amin(3) for m, y, x in cells).amax(0)
    lower -= ROUNDING * torch.finfo(upper.dtype).eps * upper.abs().amax(0)
    candidates = (~(upper < lower)).flatten(1).T  # (tiles, C); nan remains a candidate
    number = candidates.sum(1)
    value = upper.new_empty(len(candidates), *TILE)
    label = torch.empty(value.shape, dtype=torch.uint8)
    for count in number.unique().tolist():
        for tiles in (number == count).nonzero()[:, 0].split(max(1, CHUNK // count)):
            classes = candidates[tiles].nonzero()[:, 1].view(-1, count)
            totals = _interpolate(maps, axes, classes, tiles).unbind(2)
            best, winner = totals[0], classes[:, 0].byte()[:, None, None].expand_as(totals[0])
            for total, index in zip(totals[1:], classes.byte().T[1:], strict=True):
                winner = torch.where(total > best, index[:, None, None], winner)
                best = torch.maximum(best, total)
            value[tiles], label[tiles] = best, winner
    value, label = (tiles.unflatten(0, upper.shape[1:]).transpose(1, 2) for tiles in (value, label))
    return tuple(m.flatten(2).flatten(0, 1)[: size[0], : size[1]].contiguous() for m in (value, label))


@lru_cache
def _axis(length: int, pixels: int, tile: int, dtype: torch.dtype) -> Axis:
    """One side of a map, its `length` cells upsampled to `pixels` and cut into tiles; the last one is padded.

    Returns each tile's cells (tiles, reach) and their weights in its pixels (tiles, tile, reach).
    """
    weights = upsample(torch.eye(length, dtype=dtype)[None, None], (pixels, length))[0, 0]
    weights = torch.cat((weights, weights[-1:].expand(-pixels % tile, -1))).view(-1, tile, length)
    used = (weights != 0).any(1).int()
    first, end = used.argmax(1), length - used.flip(1).argmax(1)
    reach = int((end - first).max())
    cells = first.clamp(max=length - reach)[:, None] + torch.arange(reach)
    return cells, weights.gather(2, cells[:, None].expand(-1, tile, -1))


def _interpolate(
    maps: Sequence[Tensor], axes: Sequence[list[Axis]], classes: Tensor, tiles: Tensor
) -> Tensor:
    """Sum of the upsampled maps in `tiles` (T,) for the `classes` (T, k) of each: (T, height, k, width)."""
    wide, weights = [], []
    for m, ((y, y_weights), (x, x_weights)) in zip(maps, axes, strict=True):
        row, column = tiles // len(x), tiles % len(x)
        window = m[classes[:, None, :, None], y[row][:, :, None, None], x[column][:, None, None]]
        wide.append((window.flatten(1, 2) @ x_weights[column].mT).unflatten(1, window.shape[1:3]))
        weights.append(y_weights[row])
    return (torch.cat(weights, 2) @ torch.cat(wide, 1).flatten(2)).unflatten(2, (-1, TILE[1]))
