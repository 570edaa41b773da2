"""uint8 images to what the network takes, on the device."""

from functools import lru_cache

import torch
from torch import Tensor

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


def to_network_input(images: Tensor) -> Tensor:
    """RGB (N, H, W, 3) uint8 -> BGR minus mean (N, 3, H, W) in torch's default dtype, no division."""
    # While a network is exported or compiled tensors stand for others, and a cache must not keep such a one.
    row = _mean_row.__wrapped__ if torch.compiler.is_compiling() else _mean_row
    mean = row(images.shape[2], torch.get_default_dtype(), images.device)
    bgr = torch.stack(images.unbind(3)[::-1], 3)  # flip() takes twice as long
    return bgr.to(mean.dtype).sub_(mean).permute(0, 3, 1, 2)


def to_pixels(images: Tensor) -> Tensor:
    """The way back, for pictures: BGR minus mean (N, 3, H, W) -> RGB (N, H, W, 3) uint8."""
    mean = _mean(images.dtype, images.device)
    return (images.permute(0, 2, 3, 1) + mean).round().clamp(0, 255).to(torch.uint8).flip(3)


@lru_cache
def _mean_row(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The mean colour for each pixel of a row, (W, 3): a long row is subtracted faster than three numbers.

    Kept on the device: a copy from the host would make it wait for the device's queue.
    """
    return _mean(dtype, device).repeat(width, 1)


def _mean(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(MEAN_BGR, dtype=dtype, device=device)
