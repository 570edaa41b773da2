"""Batch normalisation over the batches of all processes.

On GPUs torch's `SyncBatchNorm` does it; that one refuses the CPU, where the same is written out here, so that
several processes can be compared with one without a GPU.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Of one tensor of every process; each process's loss depends on all of them, so gradients add up too."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training are those of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); N may differ between processes."""
        if not self.training:
            return super().forward(x)
        pixels = x.new_tensor([x.numel() / x.shape[1]])
        dist.all_reduce(pixels)
        mean = _Sum.apply(x.sum((0, 2, 3))) / pixels
        centred = x - mean[:, None, None]
        var = _Sum.apply(centred.square().sum((0, 2, 3))) / pixels
        self.num_batches_tracked.add_(1)
        unbiased = var.detach() * pixels / (pixels - 1).clamp_min(1)
        self.running_mean.lerp_(mean.detach().to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = self.weight / (var + self.eps).sqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise(network: nn.Module, cuda: bool) -> nn.Module:
    """The network with every batch normalisation replaced by one over all processes; names stay."""
    if cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
    return network
