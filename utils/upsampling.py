"""Bilinear upsampling with aligned corners, with a gradient that repeats to the bit on a GPU."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W), bilinear with aligned corners; deterministic if torch shall be."""
    if torch.are_deterministic_algorithms_enabled() and maps.is_cuda:
        return RepeatableUpsampling.apply(maps, size)
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


class RepeatableUpsampling(torch.autograd.Function):
    """Upsampling whose gradient is two matrix products, A_h @ g @ A_w^T, with A from `_adjoint`.

    The gradient of CUDA's operation adds atomically, in any order. What `F.interpolate` runs instead in
    deterministic mode sorts, and moves 28 times the bytes.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.sides = tuple(zip(maps.shape[2:], size, strict=True))
        return torch.ops.aten.upsample_bilinear2d(maps, list(size), True)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        rows, columns = (_adjoint(*side, gradient.dtype, gradient.device) for side in ctx.sides)
        allowed = torch.backends.cuda.matmul.allow_tf32  # it would round gradients to 10 bits
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            return rows @ gradient @ columns.T, None
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed


@lru_cache
def _adjoint(length: int, pixels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The share of each of `length` values in each of `pixels` values interpolated from them."""
    unit = torch.eye(length, dtype=dtype, device=device)
    return F.interpolate(unit[None], pixels, mode="linear", align_corners=True)[0]
