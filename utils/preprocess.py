"""uint8 images to what the network takes, on the device."""

import torch
from torch import Tensor

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


def to_network_input(images: Tensor) -> Tensor:
    """RGB (N, H, W, 3) uint8 -> BGR minus mean (N, 3, H, W) in torch's default dtype, no division."""
    mean = torch.tensor(MEAN_BGR, dtype=torch.get_default_dtype(), device=images.device)
    bgr = torch.stack(images.unbind(3)[::-1], 3)  # flip() takes twice as long
    return bgr.to(mean.dtype).sub_(mean).permute(0, 3, 1, 2)


def to_pixels(images: Tensor) -> Tensor:
    """The way back, for pictures: BGR minus mean (N, 3, H, W) -> RGB (N, H, W, 3) uint8."""
    mean = torch.tensor(MEAN_BGR, dtype=images.dtype, device=images.device)
    return (images.permute(0, 2, 3, 1) + mean).round().clamp(0, 255).to(torch.uint8).flip(3)
