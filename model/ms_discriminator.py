"""Multi-scale least-squares discriminator on class probabilities (MRNet, section 3).

The parameter names are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = 3
WIDTH = 32
RESIDUAL_BLOCKS = 4
GRADIENT_PENALTY = 0.01  # weight of the squared gradient norm on real samples


class ConvBlock(nn.Module):
    """3x3 convolution with bias and zero padding, then leaky ReLU 0.2 (optional)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, activation: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.leaky_relu(x, 0.2, inplace=True) if self.activation else x


class ResidualBlock(nn.Module):
    """3x3, leaky ReLU, 3x3, plus the input; nothing after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(
            ConvBlock(channels, channels), ConvBlock(channels, channels, activation=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


def scale_network(input_dim: int) -> nn.Sequential:
    """The network of one scale: (N, input_dim, H, W) -> (N, 1, H/8, W/8)."""
    return nn.Sequential(
        ConvBlock(input_dim, WIDTH, stride=2),
        ConvBlock(WIDTH, WIDTH),
        ConvBlock(WIDTH, WIDTH, stride=2),
        ConvBlock(WIDTH, WIDTH),
        ConvBlock(WIDTH, 2 * WIDTH, stride=2),
        *(ResidualBlock(2 * WIDTH) for _ in range(RESIDUAL_BLOCKS)),
        nn.Conv2d(2 * WIDTH, 1, 1),
    )


class MsImageDis(nn.Module):
    """Three networks on the input at full, half and quarter size; `input_dim` is the number of classes."""

    def __init__(self, input_dim: int):
        super().__init__()
        self.cnns = nn.ModuleList(scale_network(input_dim) for _ in range(SCALES))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Probabilities (N, input_dim, H, W) -> one score map (N, 1, h, w) per scale, finest first."""
        scores = []
        for scale, cnn in enumerate(self.cnns):
            if scale:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            scores.append(cnn(x))
        return scores

    def dis_loss(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the discriminator, and the gradient penalty contained in it.

        Sum over scales of
        mean(D(fake)^2) + mean((D(real) - 1)^2) + 0.01 * mean_batch |d sum D(real) / d real|^2.
        `fake` and `real` are (N, input_dim, H, W), both detached.
        """
        real = real.detach().requires_grad_()
        loss = penalty = 0.0
        for score_fake, score_real in zip(self(fake.detach()), self(real), strict=True):
            loss = loss + score_fake.square().mean() + (score_real - 1).square().mean()
            (gradient,) = torch.autograd.grad(score_real.sum(), real, create_graph=True)
            penalty = penalty + GRADIENT_PENALTY * gradient.square().sum((1, 2, 3)).mean()
        return loss + penalty, penalty

    def gen_loss(self, fake: Tensor) -> Tensor:
        """Loss of the segmentation network: sum over scales of 2 * mean((D(fake) - 1)^2)."""
        return sum(2 * (score - 1).square().mean() for score in self(fake))
