"""The loss terms, one pure function each.

Shapes: logits (N, C, H, W), labels (N, H, W) int64, class weights (C,); every loss is 0-dimensional. Where
labels may be soft, they may also be (N, C, H, W), a vector per pixel that is all 0 where it is ignored.
MRNet is arXiv 1912.11164, Rectifying is arXiv 2003.03773, CRST is arXiv 1908.09822, AdaptSegNet is
arXiv 1802.10349, CLAN is arXiv 1809.09478.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed import SINGLE_PROCESS, Processes
from utils.percentile import percentile, value_counts

CLASSIFIER_WEIGHTS = (0.5, 1.0)  # of the auxiliary and the primary logits in their weighted sum
MIN_CLASS_PIXELS = 64 * 64  # per image; a class with fewer gets the highest weight
OFTEN_DECAY = 0.9  # of the running weight of classes that are often absent
FOCAL_MARGIN = 1e-9  # distance of probabilities from 0 and 1 in the focal loss


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


def pixel_cross_entropy(log_p: Tensor, labels: Tensor, weight: Tensor, ignore_index: int) -> Tensor:
    """Class-weighted cross entropy of each pixel from log-probabilities, 0 where ignored: (N, H, W).

    `labels` may be soft.
    """
    if labels.dim() == log_p.dim():
        return -(weight[:, None, None] * labels * log_p).sum(1)
    return F.nll_loss(log_p, labels, weight, ignore_index=ignore_index, reduction="none")


def focal_log_probability(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma * log p, the focal loss's substitute for log p; p is clamped to [1e-9, 1 - 1e-9].

    Clamps log p, because 1 - 1e-9 is 1 in float32.
    """
    log_p = log_p.clamp(math.log(FOCAL_MARGIN), math.log1p(-FOCAL_MARGIN))
    return (-torch.expm1(log_p)).pow(gamma) * log_p


def label_weight(labels: Tensor, weight: Tensor, ignore_index: int) -> Tensor:
    """The class weight of each pixel's label, for soft labels their mean, 0 where ignored: (N, H, W)."""
    if labels.dim() == 4:
        total = labels.sum(1, dtype=weight.dtype)
        return (weight[:, None, None] * labels).sum(1) / total.clamp_min(torch.finfo(total.dtype).tiny)
    ignored = labels == ignore_index
    return torch.where(ignored, 0.0, weight[labels.masked_fill(ignored, 0)])


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor,
    ignore_index: int = 255,
    hard_percentile: float = 0.0,
    across: Processes = SINGLE_PROCESS,
    focal: float = 0.0,
) -> Tensor:
    """Weighted mean of the cross entropy over the hard pixels (MRNet, eq. 1).

    With `hard_percentile` q > 0, pixels whose weighted loss lies below the q-th percentile over all pixels
    (ignored ones included, with loss 0) are ignored as well. The loss is 0 where no pixel is left. Over
    several ranks, mean and percentile are those of the global batch, and the result is this rank's share:
    the shares add up to the loss. `labels` may be soft (CRST, LRENT). With `focal` gamma > 0 the cross
    entropy is the focal one (CLAN).
    """
    log_p = logits.log_softmax(1)
    log_p = focal_log_probability(log_p, focal) if focal else log_p
    losses = pixel_cross_entropy(log_p, labels, weight, ignore_index)
    pixel_weight = label_weight(labels, weight, ignore_index)
    if hard_percentile > 0:
        hard = losses.detach() >= percentile(losses.detach(), hard_percentile, across)
        losses, pixel_weight = losses * hard, pixel_weight * hard
    total_weight = across.all_reduce_sum(pixel_weight.sum())
    return losses.sum() / total_weight.clamp_min(torch.finfo(losses.dtype).tiny)


def memory_regularization(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean over pixels of KL(m || p2) + KL(m || p1), m of the constant fused logits (MRNet, eq. 6)."""
    log_m = fuse(z1, z2).detach().log_softmax(1)
    return sum(kl_divergence(log_m, z.log_softmax(1)) for z in (z2, z1)).mean()


def confidence_weighted_entropy(z1: Tensor, z2: Tensor) -> Tensor:
    """-mean(c * sum_c p log p) over pixels, p of the fused logits, c = sum_c p^2 taken as constant."""
    log_p = fuse(z1, z2).log_softmax(1)
    p = log_p.exp()
    confidence = p.detach().square().sum(1)
    return (-confidence * (p * log_p).sum(1)).mean()


def uniform_divergence(
    logits: Tensor,
    labels: Tensor,
    image_weights: Tensor,
    ignore_index: int = 255,
    across: Processes = SINGLE_PROCESS,
) -> Tensor:
    """Cross entropy from the uniform distribution to the prediction (CRST, MRKLD), smoothing the network.

    The sum over labelled pixels of r_n * -mean_c(log p_c), divided by the number of labelled pixels of those
    images whose weight r_n is not 0; 0 if there is none. Over several ranks this rank's share.

    Args:
        labels: hard ones; they say which pixels count.
        image_weights: r_n, (N,).
    """
    valid = labels != ignore_index
    counted = across.all_reduce_sum((valid & (image_weights != 0)[:, None, None]).sum())
    divergence = -logits.log_softmax(1).mean(1) * valid * image_weights[:, None, None]
    return divergence.sum() / counted.clamp_min(1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_c p (log p - log q) from log-probabilities (N, C, H, W): (N, H, W), nats."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


# Divergence of classifier b from classifier a per pixel, where a is the one whose loss is rectified
# (Rectifying, table 9). The released results used "kl": KL(p_b || p_a).
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda log_a, log_b: kl_divergence(log_b, log_a),
    "reverse-kl": lambda log_a, log_b: kl_divergence(log_a, log_b),
    "squared": lambda log_a, log_b: (log_a.exp() - log_b.exp()).square().sum(1),
}


def rectified_losses(
    z1: Tensor,
    z2: Tensor,
    labels: Tensor,
    weight: Tensor,
    ignore_index: int = 255,
    divergence: str = "kl",
    focal: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Rectified pseudo-label losses of both classifiers (Rectifying, eq. 8); nothing is detached.

    mean(ce * exp(-V) + V) over all pixels, V the divergence between the two classifiers: a pixel
    on which they disagree counts less, and disagreement itself is penalised. `focal` as in
    `segmentation_loss`.
    """

    def rectified(log_a: Tensor, log_b: Tensor) -> Tensor:
        variance = DIVERGENCES[divergence](log_a, log_b)
        log_p = focal_log_probability(log_a, focal) if focal else log_a
        ce = pixel_cross_entropy(log_p, labels, weight, ignore_index)
        return (ce * torch.exp(-variance) + variance).mean()

    log_p1, log_p2 = z1.log_softmax(1), z2.log_softmax(1)
    return rectified(log_p1, log_p2), rectified(log_p2, log_p1)


# What a discriminator's logits cost, given the label that they should have; element by element.
GANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Vanilla": lambda score, label: F.binary_cross_entropy_with_logits(score, label, reduction="none"),
    "LS": lambda score, label: (score - label).square(),
}


def adversarial_loss(score: Tensor, label: int, gan: str = "Vanilla", weight: Tensor | None = None) -> Tensor:
    """Mean of weight * l(score, label) over all cells (AdaptSegNet, CLAN).

    Args:
        score: logits of a discriminator, (N, 1, h, w).
        label: 0 (source) or 1 (target).
        gan: a name in `GANS`, l.
        weight: (N, 1, h, w); None: 1 everywhere.
    """
    loss = GANS[gan](score, torch.full_like(score, label))
    return loss.mean() if weight is None else (weight * loss).mean()


def disagreement_map(z1: Tensor, z2: Tensor) -> Tensor:
    """1 - the cosine of the two classifiers' probabilities, per pixel: (N, 1, H, W), in [0, 1] (CLAN)."""
    return 1 - F.cosine_similarity(z1.softmax(1), z2.softmax(1), dim=1).unsqueeze(1)


def weight_discrepancy(first: nn.Module, second: nn.Module) -> Tensor:
    """1 + the cosine of two classifiers' weights, between 0 and 2 (CLAN).

    Of the kernels and biases of their convolutions and linear layers, those that have the same shape in both.
    """

    def parameters(classifier: nn.Module) -> list[Tensor]:
        layers = (m for m in classifier.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        return [p for layer in layers for p in layer.parameters(recurse=False)]

    pairs = zip(parameters(first), parameters(second), strict=True)
    pairs = [(p.flatten(), q.flatten()) for p, q in pairs if p.shape == q.shape]
    return 1 + F.cosine_similarity(*map(torch.cat, zip(*pairs, strict=True)), dim=0)
