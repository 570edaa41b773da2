"""From uint8 images to the network's input, on the device, and back for pictures."""

from functools import lru_cache

import torch
from torch import Tensor

from dataset.transforms import MEAN_RGB

MEAN_BGR = MEAN_RGB[::-1]
LEVELS = 255


def to_network_input(images: Tensor) -> Tensor:
    """RGB (N, H, W, 3) uint8 -> BGR minus mean (N, 3, H, W) in torch's default dtype, without division."""
    # Under export or compilation tensors are symbolic, and the cache must not keep one.
    row = mean_row.__wrapped__ if torch.compiler.is_compiling() else mean_row
    mean = row(images.shape[2], torch.get_default_dtype(), images.device)
    bgr = torch.stack(images.unbind(3)[::-1], 3)  # flip() takes twice as long
    return bgr.to(mean.dtype).sub_(mean).permute(0, 3, 1, 2)


def to_pixels(images: Tensor) -> Tensor:
    """BGR minus mean (N, 3, H, W) -> RGB (N, H, W, 3) uint8."""
    mean = _mean(images.dtype, images.device)
    return (images.permute(0, 2, 3, 1) + mean).round().clamp(0, 255).to(torch.uint8).flip(3)


def to_unit_rgb(images: Tensor) -> Tensor:
    """BGR minus mean (N, 3, H, W) -> RGB in [0, 1], the same shape."""
    return (images + _mean_planes(images)).flip(1) / LEVELS


def from_unit_rgb(images: Tensor) -> Tensor:
    """RGB in [0, 1] (N, 3, H, W) -> BGR minus mean, the same shape."""
    return images.flip(1) * LEVELS - _mean_planes(images)


def _mean_planes(images: Tensor) -> Tensor:
    return mean_row(1, images.dtype, images.device).view(3, 1, 1)


@lru_cache
def mean_row(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The mean colour repeated for each pixel of a row, (W, 3): broadcasting a long row is faster.

    Cached on the device, because a copy from the CPU would synchronise.
    """
    return _mean(dtype, device).repeat(width, 1)


def _mean(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(MEAN_BGR, dtype=dtype, device=device)
