"""Discriminator of AdaptSegNet (arXiv 1802.10349) and CLAN: five strided convolutions on class probabilities.

The parameter names are those of the published checkpoints.
"""

import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 32  # input pixels per score, so the shortest side of an input
SLOPE = 0.2  # of leaky ReLU


def conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The 4x4 convolution that halves both sides, rounding down."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)


class FCDiscriminator(nn.Module):
    """Leaky ReLU 0.2 after all but the last convolution; initial values are PyTorch's."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = conv(num_classes, 64)
        self.conv2 = conv(64, 128)
        self.conv3 = conv(128, 256)
        self.conv4 = conv(256, 512)
        self.classifier = conv(512, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (N, num_classes, H, W) -> logits (N, 1, H // 32, W // 32)."""
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.leaky_relu(layer(x), SLOPE, inplace=True)
        return self.classifier(x)
