"""Contrastive losses on the network's features (PiPa, arXiv 2211.07609).

Pixel contrast pulls embeddings of one class together and pushes those of different classes apart. All shapes
are fixed, whatever the labels hold, so that nothing waits for the device: an anchor that does not exist has
class -1.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.device import to_device
from utils.distributed import SINGLE_PROCESS, Processes
from utils.percentile import value_counts

TEMPERATURE = 0.1
BASE_TEMPERATURE = 0.07
SAMPLES = 1024  # anchors in a batch at most
VIEWS = 100  # anchors of an image's class at most; a class needs more cells than that
CLASSES = 256  # more than any train id
ANCHORS = 3  # the use of the seed beside the streams' numbers


def uniform_draws(
    seed: int, use: int, i_iter: int, images: range, shape: tuple, device: torch.device
) -> Tensor:
    """Uniform float32 numbers, (N, *shape), that depend only on seed, use, iteration and image."""
    draws = torch.empty(len(images), *shape, dtype=torch.float32, pin_memory=device.type == "cuda")
    for image, own in zip(images, draws, strict=True):
        entropy = np.random.SeedSequence((seed, use, i_iter, image)).generate_state(1, np.uint64)
        own.uniform_(generator=torch.Generator().manual_seed(int(entropy[0])))
    return to_device(draws, device)


def anchor_slots(
    labels: Tensor,
    predictions: Tensor,
    rank: Tensor,
    samples: int = SAMPLES,
    views: int = VIEWS,
    ignore_index: int = 255,
    across: Processes = SINGLE_PROCESS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose cells to contrast: equally many of each class of each image that has more than `views` cells.

    With A such pairs of image and class there are V = min(samples // A, views) anchors of each, half of them
    hard (predicted otherwise than labelled) as far as there are enough of both kinds.

    Args:
        labels, predictions: (N, h, w) int64, labels in 0 ... 255.
        rank: (N, h, w); of the hard and of the easy cells those of lowest rank are taken.
        across: A counts the pairs of all ranks.

    Returns:
        cells: (samples,) places in N*h*w, by image, class, hard before easy; 0 where an anchor is not here.
        classes: (samples,), -1 where it is not here.
        views: 0-dimensional V.
    """
    pairs, device = len(labels) * CLASSES, labels.device
    images = torch.arange(len(labels), device=device)[:, None, None]
    group = 2 * (images * CLASSES + labels) + (predictions == labels)  # even: the hard cells of a pair
    group = group.masked_fill(labels == ignore_index, 2 * pairs).flatten()
    order = rank.flatten().argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    counts = value_counts(group, 2 * pairs + 1)[:-1]
    starts = (counts.cumsum(0) - counts).view(-1, 2)
    hard, easy = counts.view(-1, 2).unbind(1)

    chosen = (hard + easy > views).cumsum(0)
    numbers = chosen.new_zeros(across.world_size)
    numbers[across.rank] = chosen[-1]
    numbers = across.all_reduce_sum(numbers)
    of_each = (samples // numbers.sum().clamp_min(1)).clamp_max(views)
    slots = torch.arange(samples, device=device)
    number = slots // of_each.clamp_min(1) - numbers[: across.rank].sum()  # of the pair on this rank
    view = slots % of_each.clamp_min(1)
    here = (number >= 0) & (number < chosen[-1]) & (of_each > 0)

    pair = torch.searchsorted(chosen, number + 1).clamp_max(pairs - 1)
    hard, easy = hard[pair], easy[pair]
    half = torch.where(2 * easy < of_each, of_each - easy, of_each // 2)
    hard = torch.where(2 * hard < of_each, hard, half)
    place = torch.where(view < hard, starts[pair, 0] + view, starts[pair, 1] + view - hard)
    cells = order[place.where(here, 0)]
    return cells.where(here, 0), (pair % CLASSES).where(here, -1), of_each


def choose_anchors(
    labels: Tensor,
    predictions: Tensor,
    rank: Tensor,
    samples: int = SAMPLES,
    views: int = VIEWS,
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor]:
    """`anchor_slots` without the empty ones: cells (A, V), classes (A,); synchronises with the device."""
    cells, classes, of_each = anchor_slots(labels, predictions, rank, samples, views, ignore_index)
    here = classes >= 0
    shape = (-1, max(1, int(of_each)))
    return cells[here].view(shape), classes[here].view(shape)[:, 0]


def pixel_contrast(embeddings: Tensor, classes: Tensor) -> Tensor:
    """Supervised contrast between anchors, 0-dimensional; 0 without any.

    The mean over anchors i and over the others j of i's class of -log(e^s_ij / (e^s_ij + sum_k e^s_ik)), k
    over the anchors of other classes, s the cosine over the temperature, times temperature / 0.07.

    Args:
        embeddings: (K, D) of norm 1.
        classes: (K,); those below 0 are no anchors.
    """
    s = embeddings @ embeddings.T / TEMPERATURE
    anchor = classes >= 0
    pair = anchor[:, None] & anchor & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    same = classes[:, None] == classes
    negatives = s.masked_fill(~pair | same, torch.finfo(s.dtype).min).logsumexp(1, keepdim=True)
    log_p = F.logsigmoid(s - negatives) * (pair & same)
    log_p = log_p.sum(1) / (pair & same).sum(1).clamp_min(1)
    return -TEMPERATURE / BASE_TEMPERATURE * log_p.sum() / anchor.sum().clamp_min(1)


def contrast_cells(
    embeddings: Tensor,
    predictions: Tensor,
    labels: Tensor,
    rank: Tensor,
    ignore_index: int = 255,
    across: Processes = SINGLE_PROCESS,
) -> Tensor:
    """Pixel contrast of a labelled batch, whose anchors are those of all ranks; this rank's share.

    Args:
        embeddings: (N, D, h, w) of norm 1.
        predictions, rank: (N, h, w), see `anchor_slots`.
        labels: (N, H, W) int64 at any size; each cell takes the nearest.
    """
    labels = F.interpolate(labels[:, None].float(), predictions.shape[1:], mode="nearest")[:, 0].long()
    cells, classes, _ = anchor_slots(labels, predictions, rank, ignore_index=ignore_index, across=across)
    anchors = embeddings.permute(0, 2, 3, 1).flatten(0, 2)[cells] * (classes >= 0)[:, None]
    classes = across.all_reduce_sum(classes + 1) - 1
    return pixel_contrast(across.all_reduce_whole(anchors), classes) / across.world_size
