"""Multi-scale least-squares discriminator on class probabilities (MRNet, section 3).

The parameter names are those of the published checkpoints.

The network is piecewise linear, so the gradient of a score with respect to the input, which the penalty
needs, is itself a forward pass through transposed layers, differentiated once like any other. Each layer's
`vjp` returns its output and its pullback, which takes a gradient back to its input. The second derivative of
`torch.autograd.grad(create_graph=True)` instead convolves with filters as large as the image, for which cuDNN
has no fast kernels.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = 3
WIDTH = 32
RESIDUAL_BLOCKS = 4
SLOPE = 0.2  # of leaky ReLU
GRADIENT_PENALTY = 0.01  # weight of the squared gradient norm on real samples
POOLING = dict(kernel_size=3, stride=2, padding=1, count_include_pad=False)  # between scales

Pullback = Callable[[Tensor], Tensor]  # gradient with respect to the output -> with respect to the input


class Conv(nn.Conv2d):
    """nn.Conv2d with `vjp`."""

    def vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The output for `x` and its pullback."""
        y = self(x)
        sizes = zip(x.shape[2:], y.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        rest = [size - (cells - 1) * stride + 2 * pad - kernel for size, cells, kernel, stride, pad in sizes]

        def pullback(gradient: Tensor) -> Tensor:
            return F.conv_transpose2d(gradient, self.weight, None, self.stride, self.padding, rest)

        return y, pullback


class ConvBlock(nn.Module):
    """3x3 convolution with bias and zero padding, then leaky ReLU 0.2 (optional)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, activation: bool = True):
        super().__init__()
        self.conv = Conv(in_channels, out_channels, 3, stride, padding=1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.vjp(x)[0]

    def vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The output for `x` and its pullback."""
        y, convolution = self.conv.vjp(x)
        if not self.activation:
            return y, convolution
        y = F.leaky_relu(y, SLOPE, inplace=True)
        signs = y.detach()

        def pullback(gradient: Tensor) -> Tensor:
            return convolution(torch.ops.aten.leaky_relu_backward(gradient, signs, SLOPE, True))

        return y, pullback


class ResidualBlock(nn.Module):
    """3x3, leaky ReLU, 3x3, plus the input; nothing after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(
            ConvBlock(channels, channels), ConvBlock(channels, channels, activation=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.vjp(x)[0]

    def vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        """The output for `x` and its pullback."""
        y, inner = chain_vjp(self.model, x)
        return x + y, lambda gradient: gradient + inner(gradient)


def chain_vjp(layers: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, Pullback]:
    """The output of layers one after the other and its pullback."""
    pullbacks = []
    for layer in layers:
        x, pullback = layer.vjp(x)
        pullbacks.append(pullback)

    def chained(gradient: Tensor) -> Tensor:
        for pullback in reversed(pullbacks):
            gradient = pullback(gradient)
        return gradient

    return x, chained


def scale_network(input_dim: int) -> nn.Sequential:
    """The network of one scale: (N, input_dim, H, W) -> (N, 1, H/8, W/8)."""
    return nn.Sequential(
        ConvBlock(input_dim, WIDTH, stride=2),
        ConvBlock(WIDTH, WIDTH),
        ConvBlock(WIDTH, WIDTH, stride=2),
        ConvBlock(WIDTH, WIDTH),
        ConvBlock(WIDTH, 2 * WIDTH, stride=2),
        *(ResidualBlock(2 * WIDTH) for _ in range(RESIDUAL_BLOCKS)),
        Conv(2 * WIDTH, 1, 1),
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
        return [cnn(scaled) for cnn, scaled in zip(self.cnns, _pyramid(x), strict=True)]

    def input_gradients(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The score maps, and for each scale d sum(score map) / d x, of the shape of `x`."""
        inputs = _pyramid(x)
        scores, gradients = [], []
        for scale, cnn in enumerate(self.cnns):
            score, pullback = chain_vjp(cnn, inputs[scale])
            gradient = pullback(torch.ones_like(score))
            for finer in reversed(inputs[:scale]):
                gradient = _pool_adjoint(gradient, finer)
            scores.append(score)
            gradients.append(gradient)
        return scores, gradients

    def dis_loss(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the discriminator, and the gradient penalty contained in it.

        Sum over scales of
        mean(D(fake)^2) + mean((D(real) - 1)^2) + 0.01 * mean_batch |d sum D(real) / d real|^2.
        `fake` and `real` are (N, input_dim, H, W), both detached.
        """
        loss = penalty = 0.0
        scores_real, gradients = self.input_gradients(real.detach())
        scores_fake = self(fake.detach())
        for score_fake, score_real, gradient in zip(scores_fake, scores_real, gradients, strict=True):
            loss = loss + score_fake.square().mean() + (score_real - 1).square().mean()
            penalty = penalty + GRADIENT_PENALTY * gradient.square().sum((1, 2, 3)).mean()
        return loss + penalty, penalty

    def gen_loss(self, fake: Tensor) -> Tensor:
        """Loss of the segmentation network: sum over scales of 2 * mean((D(fake) - 1)^2)."""
        return sum(2 * (score - 1).square().mean() for score in self(fake))


def _pyramid(x: Tensor) -> list[Tensor]:
    """The input of each scale."""
    inputs = [x]
    while len(inputs) < SCALES:
        inputs.append(F.avg_pool2d(inputs[-1], **POOLING))
    return inputs


def _pool_adjoint(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the pooled `x` taken back to `x`."""
    kernel, stride, padding = ([POOLING[name]] * 2 for name in ("kernel_size", "stride", "padding"))
    options = (kernel, stride, padding, False, POOLING["count_include_pad"], None)
    return torch.ops.aten.avg_pool2d_backward(gradient, x, *options)
