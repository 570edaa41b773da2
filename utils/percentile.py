"""Exact percentiles of many pixel losses, on one device or over all ranks, without a synchronisation."""

import math

import torch
from torch import Tensor

from utils.distributed import SINGLE_PROCESS, Processes

DIGIT_BITS = 8  # bits per pass of the radix selection
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}  # of the same width


def percentile(values: Tensor, q: float, across: Processes = SINGLE_PROCESS) -> Tensor:
    """The q-th percentile of all ranks' values with linear interpolation, as in NumPy; 0-dimensional.

    `torch.quantile` refuses more than 2^24 values, which a batch of 16 crops of 1280x720 nearly reaches. On a
    GPU the values are sorted, because `kthvalue` uses a single block. Across ranks a radix selection finds
    the exact values in a fixed number of passes and exchanges only histograms.

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
    keys = _sortable(values.contiguous().view(INTEGERS[values.dtype]))
    number = across.all_reduce_sum(torch.full((), keys.numel(), device=keys.device))
    # float64: float32 cannot tell the positions of more than 2^24 values apart.
    position = q / 100 * (number - 1).to(torch.float64)
    places = torch.stack((position.floor(), position.ceil())).long()
    lower, upper = _sortable(_smallest_keys(keys, places + 1, across)).view(values.dtype)
    return torch.lerp(lower, upper, (position - position.floor()).to(values.dtype))


def _sortable(bits: Tensor) -> Tensor:
    """Bits of floats -> integers in the floats' order, and back: if negative, all but the sign flip."""
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _smallest_keys(keys: Tensor, counts: Tensor, across: Processes) -> Tensor:
    """The k-th smallest key over all ranks, for each k in `counts`."""
    limits, base = torch.iinfo(keys.dtype), 1 << DIGIT_BITS
    unsigned = keys ^ limits.min  # the order of unsigned digits
    found, candidates = torch.zeros_like(counts), [torch.ones_like(keys, dtype=torch.bool) for _ in counts]
    for shift in reversed(range(0, limits.bits, DIGIT_BITS)):
        digits = (unsigned >> shift) & (base - 1)
        # Histogram of this digit over the remaining candidates; excluded keys fall into one extra bin.
        histograms = [value_counts(digits.where(among, base), base + 1)[:base] for among in candidates]
        histogram = across.all_reduce_sum(torch.stack(histograms))
        cumulative = histogram.cumsum(1)
        digit = (cumulative < counts[:, None]).sum(1)
        counts = counts - (cumulative - histogram).gather(1, digit[:, None])[:, 0]
        candidates = [among & (digits == d) for among, d in zip(candidates, digit, strict=True)]
        found = (found << DIGIT_BITS) | digit
    return found.to(keys.dtype) ^ limits.min
