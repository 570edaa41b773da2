"""How often each value occurs, without a host that waits for its device."""

import torch
from torch import Tensor


def value_counts(values: Tensor, number: int) -> Tensor:
    """Of values 0 ... number-1 (..., W): how many there are of each, (number,) int64.

    `torch.bincount` first asks the device for the greatest.
    """
    # Each row counts for itself first: a GPU's threads would queue for so few common counters.
    rows = values.reshape(-1, values.shape[-1]).long()
    counts = torch.zeros(len(rows), number, dtype=torch.int64, device=values.device)
    return counts.scatter_add_(1, rows, torch.ones_like(rows)).sum(0)
