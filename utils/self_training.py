"""Online self-training, an equation per function: DACS, DAFormer and MIC (docs/methods.md).

Shapes: images (N, 3, H, W), logits (N, C, H, W), labels (N, H, W) int64 train ids. No size depends on values,
so nothing here synchronises with a GPU. DACS is arXiv 2007.08702, DAFormer 2111.14887, MIC 2212.01322.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed import SINGLE_PROCESS, Processes
from utils.percentile import value_counts

PSEUDO_WEIGHTS = ("share", "pixel", "none", "uncertainty", "both")
CELL_SHARE = 0.75  # of a cell's pixels that its class must have in the feature distance


def teacher_momentum(i_iter: int, alpha: float) -> float:
    """min(1 - 1 / (i + 1), alpha): at first the teacher is the plain mean of the students so far."""
    return min(1 - 1 / (i_iter + 1), alpha)


@torch.no_grad()
def update_teacher(teacher: nn.Module, network: nn.Module, i_iter: int, alpha: float) -> None:
    """Move the teacher's parameters towards the network's, in place; at iteration 0 a copy. No buffers."""
    momentum = teacher_momentum(i_iter, alpha)
    torch._foreach_lerp_(list(teacher.parameters()), list(network.parameters()), 1 - momentum)


def label_target(
    logits: Tensor,
    threshold: float,
    top: int = 0,
    bottom: int = 0,
    weighting: str = "share",
    divergence: Tensor | None = None,
    across: Processes = SINGLE_PROCESS,
) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's labels of target images (N, H, W), their weights (N, H, W), and q.

    q is the share of all pixels of the batch whose confidence reaches `threshold`, counted before the
    margins are cut. No pixel is dropped for its own confidence unless by the weighting "pixel".

    Args:
        logits: the teacher's joint logits.
        top, bottom: rows at the edges that get weight 0.
        weighting: one of `PSEUDO_WEIGHTS`: q, 1[confident], 1, exp(-V), q * exp(-V).
        divergence: V of each pixel, between the teacher's classifiers, (N, H, W).
    """
    confidence, labels = logits.softmax(1).max(1)
    confident = confidence >= threshold
    sure, unsure = across.all_reduce_sum(torch.stack((confident.sum(), (~confident).sum())))
    share = sure.to(confidence.dtype) / (sure + unsure)
    weight = confident.to(share.dtype) if weighting == "pixel" else torch.ones_like(confidence)
    if weighting in ("share", "both"):
        weight = weight * share
    if weighting in ("uncertainty", "both"):
        weight = weight * torch.exp(-divergence)
    weight[:, :top].zero_()
    weight[:, max(0, weight.shape[1] - bottom) :].zero_()
    return labels, weight, share


def pseudo_labels(
    logits: Tensor, threshold: float = 0.968, top: int = 0, bottom: int = 0
) -> tuple[Tensor, Tensor]:
    """Labels and weights of `label_target` as published: every weight is q, or 0 in the margins."""
    return label_target(logits, threshold, top, bottom)[:2]


def present_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Which classes occur in a label (H, W), (C + 1,) bool; the last place stands for ignored pixels."""
    return value_counts(labels.clamp_max(num_classes), num_classes + 1) > 0


def draw_classes(present: Tensor, rank: Tensor) -> Tensor:
    """ClassMix: of the n present classes (C + 1,) bool the ceil(n / 2) of lowest rank, (C + 1,) bool."""
    order = rank.masked_fill(~present, torch.inf).argsort().argsort()
    return present & (order < (present.sum() + 1) // 2)


def class_mask(labels: Tensor, chosen: Tensor) -> Tensor:
    """Where a label (..., H, W) is one of the chosen classes (C + 1,), or ignored if those are: bool."""
    return chosen[labels.clamp_max(len(chosen) - 1)]


def mix(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where the mask (H, W) or (N, H, W) is set, else `b`; both with or without channels before H."""
    return torch.where(mask.unsqueeze(-3) if a.dim() > mask.dim() else mask, a, b)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor, ignore_index: int = 255) -> Tensor:
    """Mean over all N * H * W pixels, also ignored ones, of weight (N, H, W) * cross entropy."""
    return (F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none") * weight).mean()


def block_mask(noise: Tensor, size: tuple[int, int], ratio: float) -> Tensor:
    """MIC's mask (N, 1, *size) bool: blocks whose uniform number in (N, 1, h, w) is above `ratio` stay."""
    return F.interpolate((noise > ratio).to(noise.dtype), size, mode="nearest") > 0


def feature_distance(
    features: Tensor,
    reference: Tensor,
    labels: Tensor,
    classes: Sequence[int],
    share: float = CELL_SHARE,
    ignore_index: int = 255,
    across: Processes = SINGLE_PROCESS,
    centred: bool | None = None,
) -> Tensor:
    """Mean distance of features (N, K, h, w) to the reference's in cells of these classes (DAFormer, eq. 8).

    A cell is of the class that has at least `share` (more than a half) of its pixels, ignored ones included.
    0 without such a cell; over several ranks this rank's share.

    Args:
        centred: cells are windows of s pixels around the pixels 0, s, 2 s, ..., cut at the border, for sides
            of s * (cells - 1); False: windows of s that divide the sides. None: False where they do.
    """
    (height, width), (rows, columns) = labels.shape[1:], features.shape[2:]
    if centred is None:
        centred = height % rows != 0 or height * columns != width * rows
    stride = height // (rows - centred)
    distance = torch.linalg.vector_norm(features - reference.detach(), dim=1)
    counted = torch.zeros_like(distance, dtype=torch.bool)
    for index in set(classes) - {ignore_index}:
        pixels = (labels == index).to(features.dtype)
        padding = stride // 2 if centred else 0
        counted |= F.avg_pool2d(pixels, stride, stride, padding, count_include_pad=False) >= share
    return (distance * counted).sum() / across.all_reduce_sum(counted.sum()).clamp_min(1)
