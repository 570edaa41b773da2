"""Functions of single pixels at full resolution, without the memory of their steps."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED_BYTES = 1 << 19  # of logits at a time on a CPU: with what becomes of them, what its cache holds
PART_BYTES = 1 << 26  # elsewhere: large enough to keep a GPU busy

Place = tuple[slice, slice]  # of images, of rows


def pixelwise(
    function: Callable[..., tuple[Tensor, ...]], logits: Sequence[Tensor], maps: Sequence[Tensor] = ()
) -> tuple[Tensor, ...]:
    """`function(*logits, *maps)`, computed a part of the pixels at a time, and again in the backward pass.

    A chain such as softmax, logarithm, product, sum leaves a tensor of the logits' size in memory at every
    step. Here these exist of a part at a time, and nothing but the logits is kept for the backward pass. The
    values and gradients are the same. Not twice differentiable.

    Args:
        function: maps (N, H, W) of logits (N, C, H, W) and maps (N, H, W), each pixel for itself.
        logits: what gradients flow to.
        maps: constants, such as labels.
    """
    return _Pixelwise.apply(function, len(logits), *logits, *maps)


class _Pixelwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Callable, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(*tensors)
        results = None
        for place in _places(tensors[0]):
            values = function(*_parts(tensors, count, place))
            results = results or [value.new_empty(_pixels(tensors[0])) for value in values]
            for result, value in zip(results, values, strict=True):
                result[place] = value
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors, count = ctx.saved_tensors, ctx.count
        found = [torch.empty_like(logits) for logits in tensors[:count]]
        for place in _places(tensors[0]):
            parts = _parts(tensors, count, place)
            logits = [part.detach().requires_grad_() for part in parts[:count]]
            with torch.enable_grad():
                values = ctx.function(*logits, *parts[count:])
            of_part = torch.autograd.grad(values, logits, [gradient[place] for gradient in gradients])
            for whole, part in zip(found, of_part, strict=True):
                _of_logits(whole, place).copy_(part)
        return None, None, *found, *(None for _ in tensors[count:])


def _places(logits: Tensor) -> Iterator[Place]:
    """Some images at a time, or, of a large one, some rows."""
    images, channels, height, width = logits.shape
    limit = CACHED_BYTES if logits.device.type == "cpu" else PART_BYTES
    rows = max(1, limit // (channels * width * logits.element_size()))
    together = max(1, rows // height)
    for image in range(0, images, together):
        for row in range(0, height, rows):
            yield slice(image, image + together), slice(row, row + rows)


def _parts(tensors: Sequence[Tensor], count: int, place: Place) -> list[Tensor]:
    return [_of_logits(t, place) for t in tensors[:count]] + [t[place] for t in tensors[count:]]


def _of_logits(logits: Tensor, place: Place) -> Tensor:
    images, rows = place
    return logits[images, :, rows]


def _pixels(logits: Tensor) -> tuple[int, int, int]:
    return logits.shape[0], *logits.shape[2:]
