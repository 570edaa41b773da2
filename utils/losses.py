"""The loss terms, a pure function each.

Shapes: logits (N, C, H, W), labels (N, H, W) int64, class weights (C,); every loss is 0-dimensional.
MRNet is arXiv 1912.11164, Rectifying is arXiv 2003.03773.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.counting import value_counts
from utils.distributed import SINGLE_PROCESS, Processes
from utils.pixelwise import pixelwise

CLASSIFIER_WEIGHTS = (0.5, 1.0)  # of the auxiliary and the primary logits wherever the two speak as one
MIN_CLASS_PIXELS = 64 * 64  # a class with fewer pixels than this an image is raised to the highest weight
OFTEN_DECAY = 0.9  # of the running weight of classes that are often absent


def fuse(aux: Tensor, main: Tensor, weights: tuple[float, float] = CLASSIFIER_WEIGHTS) -> Tensor:
    """The two classifiers' joint logits, 0.5 * aux + main as published; all shapes (N, C, H, W)."""
    return weights[0] * aux + weights[1] * main


def class_pixel_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Number of pixels of each class, (C,) int64; labels outside 0 ... C-1 count nowhere."""
    index = torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)
    return value_counts(index, num_classes + 1)[:num_classes]


def rare_class_weight(counts: Tensor, images: int, max_value: float) -> Tensor:
    """`--class-balance`: `max_value` for a class with fewer than 64*64*images pixels, else 1; (C,)."""
    return torch.where(counts < MIN_CLASS_PIXELS * images, max_value, 1.0).to(torch.get_default_dtype())


def update_often_weight(often: Tensor, counts: Tensor, max_value: float) -> Tensor:
    """`--often-balance`: 0.9 * often + 0.1 * a, a = `max_value` for a class absent from the batch, else 1."""
    absent = torch.where(counts == 0, max_value, 1.0).to(often.dtype)
    return OFTEN_DECAY * often + (1 - OFTEN_DECAY) * absent


def percentile(values: Tensor, q: float, across: Processes = SINGLE_PROCESS) -> Tensor:
    """The q-th percentile of all processes' values with linear interpolation, as NumPy's; 0-dimensional.

    `torch.quantile` refuses more than 2^24 values, which a batch of 16 crops of 1280x720 nearly reaches, and
    `kthvalue` has a single block of a GPU do the work, so there all values are sorted. Among processes they
    are found digit by digit, by counting: exact, in a fixed number of passes, and only counts travel. No host
    waits for any of it.
    """
    if across.is_distributed:
        return _percentile_by_counting(values, q, across)
    values = values.flatten()
    position = q / 100 * (values.numel() - 1)
    places = math.floor(position), math.ceil(position)
    lower, upper = (_selected if values.device.type == "cpu" else _sorted)(values, places)
    return torch.lerp(lower, upper, position - places[0])


def _selected(values: Tensor, places: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return tuple(values.kthvalue(place + 1).values for place in places)


def _sorted(values: Tensor, places: tuple[int, int]) -> tuple[Tensor, Tensor]:
    ordered = values.sort().values
    return tuple(ordered[place] for place in places)


def _percentile_by_counting(values: Tensor, q: float, across: Processes) -> Tensor:
    keys = _ordered_keys(values)
    number = across.all_reduce_sum(torch.full((), keys.numel(), device=keys.device))
    # Double: single precision cannot tell the places of more than 2^24 values apart.
    position = q / 100 * (number - 1).to(torch.float64)
    places = torch.stack((position.floor(), position.ceil())).long()
    lower, upper = _value_of_key(_smallest_keys(keys, places + 1, across), values.dtype)
    return torch.lerp(lower, upper, (position - position.floor()).to(values.dtype))


DIGIT = 8  # bits
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


def _ordered_keys(values: Tensor) -> Tensor:
    """Whole numbers in the order of the floats: their bits, with those below the sign flipped if negative."""
    bits = values.contiguous().view(_BITS[values.dtype])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _value_of_key(key: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(key < 0, key ^ torch.iinfo(key.dtype).max, key).view(dtype)


def _smallest_keys(keys: Tensor, counts: Tensor, across: Processes) -> Tensor:
    """For each count the smallest key that at least so many of all processes' keys do not exceed."""
    limits, base = torch.iinfo(keys.dtype), 1 << DIGIT
    unsigned = keys ^ limits.min  # in the same order when its digits are read as those of a number above 0
    found, candidates = torch.zeros_like(counts), [torch.ones_like(keys, dtype=torch.bool) for _ in counts]
    for shift in reversed(range(0, limits.bits, DIGIT)):
        digits = (unsigned >> shift) & (base - 1)
        # How many candidates have each digit; whatever is none has one beyond the last.
        own = [value_counts(digits.where(among, base), base + 1)[:base] for among in candidates]
        number = across.all_reduce_sum(torch.stack(own))
        up_to = number.cumsum(1)
        digit = (up_to < counts[:, None]).sum(1)
        counts = counts - (up_to - number).gather(1, digit[:, None])[:, 0]
        candidates = [among & (digits == d) for among, d in zip(candidates, digit, strict=True)]
        found = (found << DIGIT) | digit
    return found.to(keys.dtype) ^ limits.min


def pixel_cross_entropy(log_p: Tensor, labels: Tensor, weight: Tensor, ignore_index: int) -> Tensor:
    """Class-weighted cross entropy of each pixel from log-probabilities, 0 where ignored: (N, H, W)."""
    return F.nll_loss(log_p, labels, weight, ignore_index=ignore_index, reduction="none")


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor,
    ignore_index: int = 255,
    hard_percentile: float = 0.0,
    across: Processes = SINGLE_PROCESS,
) -> Tensor:
    """Weighted mean of the cross entropy over the hard pixels (MRNet, eq. 1).

    With `hard_percentile` q > 0 a pixel whose weighted loss lies below the q-th percentile over all
    pixels, ignored ones included with loss 0, is ignored as well. 0 where nothing is left to learn from.
    Among several processes mean and percentile are over all their pixels, and the result is this one's
    share: the shares add up to the loss.
    """

    def losses_of(z: Tensor, y: Tensor) -> tuple[Tensor]:
        return (pixel_cross_entropy(z.log_softmax(1), y, weight, ignore_index),)

    (losses,) = pixelwise(losses_of, [logits], [labels])
    ignored = labels == ignore_index
    pixel_weight = torch.where(ignored, 0.0, weight[labels.masked_fill(ignored, 0)])
    if hard_percentile > 0:
        detached = losses.detach()
        hard = detached >= percentile(detached, hard_percentile, across)
        losses, pixel_weight = losses * hard, pixel_weight * hard
    return losses.sum() / across.all_reduce_sum(pixel_weight.sum()).clamp_min(torch.finfo(losses.dtype).tiny)


def memory_regularization(z1: Tensor, z2: Tensor) -> Tensor:
    """[KL(m || p2) + KL(m || p1)] a pixel, m of the joint logits taken as constant (MRNet, eq. 6)."""

    def divergence(z1: Tensor, z2: Tensor) -> tuple[Tensor]:
        log_m = fuse(z1, z2).detach().log_softmax(1)
        return (sum(kl_divergence(log_m, z.log_softmax(1)) for z in (z2, z1)),)

    return pixelwise(divergence, [z1, z2])[0].mean()


def confidence_weighted_entropy(z1: Tensor, z2: Tensor) -> Tensor:
    """-mean(c * sum_c p log p) over pixels, p of the joint logits, c = sum_c p^2 taken as constant."""

    def entropy(z1: Tensor, z2: Tensor) -> tuple[Tensor]:
        log_p = fuse(z1, z2).log_softmax(1)
        p = log_p.exp()
        confidence = p.detach().square().sum(1)
        return (-confidence * (p * log_p).sum(1),)

    return pixelwise(entropy, [z1, z2])[0].mean()


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_c p (log p - log q) of log-probabilities (N, C, H, W): (N, H, W)."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


# How far classifier b is from classifier a, a pixel; `a` is the classifier whose loss is rectified.
# Rectifying, table 9. The released results used "kl": KL(p_b || p_a).
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda log_a, log_b: kl_divergence(log_b, log_a),
    "reverse-kl": lambda log_a, log_b: kl_divergence(log_a, log_b),
    "squared": lambda log_a, log_b: (log_a.exp() - log_b.exp()).square().sum(1),
}


def rectified_losses(
    z1: Tensor, z2: Tensor, labels: Tensor, weight: Tensor, ignore_index: int = 255, divergence: str = "kl"
) -> tuple[Tensor, Tensor]:
    """Rectified pseudo-label losses of both classifiers (Rectifying, eq. 8), nothing detached.

    mean(ce * exp(-V) + V) over all pixels, V the divergence between the two classifiers: a pixel
    on which they disagree counts less, and disagreement itself is penalised.
    """
    distance = DIVERGENCES[divergence]

    def losses_of(z1: Tensor, z2: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        log_p1, log_p2 = z1.log_softmax(1), z2.log_softmax(1)
        losses = []
        for log_a, log_b in ((log_p1, log_p2), (log_p2, log_p1)):
            variance = distance(log_a, log_b)
            ce = pixel_cross_entropy(log_a, y, weight, ignore_index)
            losses.append(ce * torch.exp(-variance) + variance)
        return tuple(losses)

    seg1, seg2 = pixelwise(losses_of, [z1, z2], [labels])
    return seg1.mean(), seg2.mean()
