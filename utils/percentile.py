"""Exact percentiles of many pixel losses, on one device or over all ranks, without a synchronisation."""

import math

import torch
from torch import Tensor

from utils.distributed import SINGLE_PROCESS, Processes


def percentile(values: Tensor, q: float, across: Processes = SINGLE_PROCESS) -> Tensor:
    """The q-th percentile of all ranks' values with linear interpolation, as in NumPy; 0-dimensional.

    `torch.quantile` refuses more than 2^24 values, which a batch of 16 crops of 1280x720 nearly reaches. On a
    GPU the values are sorted, because `kthvalue` uses a single block. Ranks exchange all values.

    Args:
        values: floats of any shape; ranks may hold different numbers of them.
        q: 0 ... 100.
        across: the ranks.
    """
    if across.is_distributed:
        return _percentile_over_ranks(values, q, across)
    values = values.flatten()
    position = q / 100 * (values.numel() - 1)
    places = math.floor(position), math.ceil(position)
    if values.device.type == "cpu":
        lower, upper = (values.kthvalue(place + 1).values for place in places)
    else:
        lower, upper = map(values.sort().values.__getitem__, places)
    return torch.lerp(lower, upper, position - places[0])


def value_counts(values: Tensor, number: int) -> Tensor:
    """`torch.bincount` without a synchronisation: counts of 0 ... number-1 in (..., W), (number,) int64."""
    # Count per row first: with so few bins, atomic additions would contend.
    rows = values.reshape(-1, values.shape[-1]).long()
    counts = torch.zeros(len(rows), number, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(1, rows, torch.ones_like(rows)).sum(0)


def _percentile_over_ranks(values: Tensor, q: float, across: Processes) -> Tensor:
    values = values.detach().flatten()
    number = across.all_reduce_sum(torch.full((), len(values), device=values.device))
    everyone = values.new_zeros(across.world_size, across.all_reduce_max(len(values)))
    everyone[across.rank] = math.inf  # fills up what a rank has less than another
    everyone[across.rank, : len(values)] = values
    ordered = across.all_reduce_sum(everyone).flatten().sort().values
    # float64: float32 cannot tell the positions of more than 2^24 values apart.
    position = q / 100 * (number - 1).to(torch.float64)
    lower, upper = ordered[torch.stack((position.floor(), position.ceil())).long()]
    return torch.lerp(lower, upper, (position - position.floor()).to(values.dtype))
