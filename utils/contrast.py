"""Contrastive losses on the network's features (PiPa, arXiv 2211.07609).

Pixel contrast pulls embeddings of one class together and pushes those of different classes apart. Patch
contrast pulls the embeddings of a place in two views together. All shapes are fixed, whatever labels and
predictions hold, so that nothing waits for the device: an anchor that does not exist has class -1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.deeplab_multi import STRIDE
from utils.device import to_device
from utils.distributed import SINGLE_PROCESS, Processes
from utils.percentile import value_counts

TEMPERATURE = 0.1
BASE_TEMPERATURE = 0.07
SAMPLES = 1024  # anchors in a batch at most
VIEWS = 100  # anchors of an image's class at most; a class needs more cells than that
CLASSES = 256  # more than any train id
ANCHORS, BANK = 3, (4, 5)  # the uses of the seed beside the streams' numbers; of the bank one per view
BANK_CELLS = 1600  # that a view adds to the bank
MAXIMUM_CELLS = 8000  # of the bank, among which the exponents' maximum is searched, as published
EPSILON, WEIGHT_EPSILON = 1e-8, 1e-12

Corners = tuple[tuple[int, int], tuple[int, int]]  # (top, left), (bottom, right)


class View(NamedTuple):
    """One of two views of a batch of images, and where it shows what the other one does.

    Args:
        images: the network's input, (N, 3, H, W).
        corners, mirrored: as in `cut_overlap`.
    """

    images: Tensor
    corners: Sequence[Corners]
    mirrored: Sequence[bool]


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


class PatchBank(nn.Module):
    """Embeddings and classes of the latest steps, oldest first: negatives of the patch contrast.

    Args:
        steps: how many steps it holds.
    """

    def __init__(self, steps: int = 3):
        super().__init__()
        self.steps, self._added = steps, []  # a copy of `added`, so that nothing waits for the device
        self.register_buffer("embeddings", torch.zeros(0, 0))
        self.register_buffer("classes", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("added", torch.zeros(0, dtype=torch.int64))  # by each step

    @torch.no_grad()
    def add(self, embeddings: Tensor, classes: Tensor) -> None:
        """Add what a step brings, (K, D) and (K,), and drop what is too old."""
        if not self._added:
            self.embeddings = embeddings[:0]
        oldest = self._added[0] if len(self._added) == self.steps else 0
        self._added = [*self._added, len(classes)][-self.steps :]
        self.embeddings = torch.cat([self.embeddings[oldest:], embeddings])
        self.classes = torch.cat([self.classes[oldest:], classes])
        self.added = torch.cat([self.added, self.added.new_full((1,), len(classes))])[-self.steps :]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *options: object) -> None:
        for name in ("embeddings", "classes", "added"):
            saved = state_dict[prefix + name]
            setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *options)
        self._added = self.added.tolist()


def cut_overlap(maps: Tensor, corners: Sequence[Corners], mirrored: Sequence[bool]) -> Tensor:
    """The cells of a view's maps (N, C, h, w) that another view shows too, image after image, row by row.

    Args:
        corners: of the overlap in each image, in pixels of the unmirrored view, multiples of 8.
        mirrored: which images are.

    Returns:
        (cells, C)
    """
    cells = []
    for values, ((top, left), (bottom, right)), flip in zip(maps, corners, mirrored, strict=True):
        values = values.flip(2) if flip else values
        rows, columns = slice(top // STRIDE, bottom // STRIDE), slice(left // STRIDE, right // STRIDE)
        cells.append(values[:, rows, columns].flatten(1).T)
    return torch.cat(cells)


def patch_contrast(
    e_a: Tensor,
    e_b: Tensor,
    y_a: Tensor,
    c_a: Tensor,
    c_b: Tensor,
    bank: PatchBank,
    threshold: float = 0.9,
    across: Processes = SINGLE_PROCESS,
) -> Tensor:
    """Loss of a view a that learns from a view b where b is sure and surer than a; 0 where none is.

    The mean over such cells of -log(e^s / (e^s + sum_k e^s_k)), s the cosine with the same cell of b over the
    temperature, s_k that with the bank's cells of other classes. Over several ranks this rank's share.

    Args:
        e_a, e_b: embeddings of the same cells (K, D), of norm 1; e_b is taken as constant.
        y_a: predicted classes, (K,).
        c_a, c_b: confidences, (K,).
    """
    s = (e_a * e_b.detach()).sum(1) / TEMPERATURE
    s_k = e_a @ bank.embeddings.T / TEMPERATURE
    maximum = torch.maximum(s, s_k[:, :MAXIMUM_CELLS].amax(1)).detach()
    others = ((s_k - maximum[:, None]).exp() * (bank.classes != y_a[:, None])).sum(1)
    positive = (s - maximum).exp()
    losses = -(positive / (positive + others + EPSILON) + EPSILON).log()
    learns = ((c_b > threshold) & (c_a < c_b)).to(losses.dtype)
    return (losses * learns).sum() / (across.all_reduce_sum(learns.sum()) + WEIGHT_EPSILON)


def contrast_views(
    embeddings: Sequence[Tensor],
    logits: Sequence[Tensor],
    views: Sequence[View],
    ranks: Sequence[Tensor],
    bank: PatchBank,
    across: Processes = SINGLE_PROCESS,
) -> Tensor:
    """Patch contrast of two views, each learning from the other; this rank's share.

    Args:
        embeddings: of each view, (N, D, h, w) of norm 1.
        logits: of its cells, (N, C, h, w).
        ranks: for each view random numbers for the cells of all ranks' images; those of lowest rank enter
            the bank.
    """
    confidences, classes = zip(*(z.detach().softmax(1).max(1, keepdim=True) for z in logits), strict=True)
    drawn = [
        draw_cells(e.detach(), y, rank, across) for e, y, rank in zip(embeddings, classes, ranks, strict=True)
    ]
    bank.add(*map(torch.cat, zip(*drawn, strict=True)))
    (e_1, y_1, c_1), (e_2, y_2, c_2) = (
        [cut_overlap(maps, view.corners, view.mirrored) for maps in maps_of_view]
        for view, *maps_of_view in zip(views, embeddings, classes, confidences, strict=True)
    )
    y_1, c_1, y_2, c_2 = (values[:, 0] for values in (y_1, c_1, y_2, c_2))
    options = dict(bank=bank, across=across)
    return patch_contrast(e_1, e_2, y_1, c_1, c_2, **options) + patch_contrast(
        e_2, e_1, y_2, c_2, c_1, **options
    )


def draw_cells(
    embeddings: Tensor, classes: Tensor, rank: Tensor, across: Processes = SINGLE_PROCESS
) -> tuple[Tensor, Tensor]:
    """The cells of lowest rank among those of all ranks' images: embeddings (K, D), classes (K,).

    Args:
        embeddings, classes: this rank's, (N, D, h, w), (N, 1, h, w).
        rank: of all ranks' cells, (M, h, w).
    """
    cells = classes.numel()
    first = across.shard(len(rank)).start * rank[0].numel()
    place = rank.flatten().argsort(stable=True)[:BANK_CELLS] - first
    here = (place >= 0) & (place < cells)
    place = place.where(here, 0)
    drawn = embeddings.movedim(1, 3).flatten(0, 2)[place] * here[:, None]
    return across.all_reduce_sum(drawn), across.all_reduce_sum(classes.flatten()[place] * here)
