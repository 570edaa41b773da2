"""Colour jitter and Gaussian blur of a batch on its device; images (N, 3, H, W) RGB in [0, 1]."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_SIGMA = (0.15, 1.15)  # pixels
BLUR_REACH = 4  # three and a half of the largest sigma: leaves out less than 1e-4 of the weights
CHANNELS = 3


def jitter(images: Tensor, strength: float, draws: Sequence[np.random.Generator]) -> Tensor:
    """torchvision's `ColorJitter(s, s, s, s)`; each image's `draws` give its factors and their order."""
    from torchvision.transforms import functional  # takes 1.3 s, and few need it

    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        lambda image, shift: functional.adjust_hue(image, shift - 1),
    )
    jittered = []
    for image, draw in zip(images, draws, strict=True):
        factors = draw.uniform(1 - strength, 1 + strength, len(changes))
        for index in draw.permutation(len(changes)):
            image = changes[index](image, float(factors[index]))
        jittered.append(image)
    return torch.stack(jittered)


def blur(images: Tensor, uniform: Tensor) -> Tensor:
    """Gaussian blur of each image, its sigma drawn by a uniform number (N,); mirrored at the border."""
    low, high = BLUR_SIGMA
    sigma = low + (high - low) * uniform
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.dtype)
    kernel = kernel.repeat_interleave(CHANNELS, 0)[:, None, None]  # one per image and colour
    blurred = F.pad(images, (BLUR_REACH,) * 4, "reflect").flatten(0, 1)[None]
    for weight in (kernel, kernel.transpose(2, 3)):
        blurred = F.conv2d(blurred, weight, groups=len(weight))
    return blurred[0].view_as(images)
