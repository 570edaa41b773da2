"""Batch normalisation over all ranks on the CPU, where torch's `SyncBatchNorm` refuses to run.

A test's stand-in, so that several processes can be compared with one without a GPU.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; each rank's loss depends on every summand, so the gradients add up too."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the batch statistics of all ranks, whose batches may differ in size."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        pixels = x.new_tensor([x.numel() / x.shape[1]])
        dist.all_reduce(pixels)
        mean = _AllReduceSum.apply(x.sum((0, 2, 3))) / pixels
        centred = x - mean[:, None, None]
        var = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / pixels
        unbiased = var.detach() * pixels / (pixels - 1).clamp_min(1)
        self.running_mean.lerp_(mean.detach().to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        scale = self.weight / (var + self.eps).sqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def convert_global_batchnorm(network: nn.Module) -> nn.Module:
    """What `nn.SyncBatchNorm.convert_sync_batchnorm` does, in place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm2d
    return network
