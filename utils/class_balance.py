"""Class-balanced pseudo labels (CBST, arXiv 1810.07911; CRST, arXiv 1908.09822).

Every class gets the threshold that keeps the same portion of the pixels predicted as it, so a class that is
never predicted with much confidence keeps its share. Probabilities p have the shape (C, H, W) and are those
of one image, averaged over the passes; the score of a pixel is its largest probability.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dataset.labels import IGNORE

DS_RATE = 4  # every 4th score counts
MINE_PORT = 1e-3  # a class below this share of the predicted pixels is mined
DIGITS, LOW_BITS = 1 << 16, 16  # a single-precision score is selected by its upper and its lower 16 bits


def class_scores(p: Tensor, ds_rate: int = DS_RATE) -> list[Tensor]:
    """Scores of the pixels predicted as each class: of its row-by-row list every `ds_rate`-th, C x (n_c,)."""
    return split_scores(*p.max(0), len(p), ds_rate)


def split_scores(score: Tensor, label: Tensor, classes: int, ds_rate: int) -> list[Tensor]:
    """`class_scores` of the maximum and the argmax of p, (H, W) each."""
    return [score[label == index][::ds_rate] for index in range(classes)]


def class_rank(number: int, portion: float) -> int:
    """How many of `number` scores lie at or above the threshold, m_c = floor(n_c P)."""
    return math.floor(number * portion)


def class_threshold(scores: Tensor, portion: float) -> Tensor:
    """The floor(n P)-th largest of a class's scores (n,); 1 if that is the 0th. 0-dimensional.

    All scores must be in memory; `ThresholdSearch` finds the same number for a set of images.
    """
    rank = class_rank(len(scores), portion)
    return scores.kthvalue(len(scores) - rank + 1).values if rank else scores.new_ones(())


class ThresholdSearch:
    """`class_threshold` of every class over any number of images, exact and in some 20 MB.

    The bits of positive floats are ordered as the floats are. A first pass over the images counts the upper
    halves of the scores' bits, a second one the lower halves of those that share the threshold's upper half.

    Args:
        classes: C.
        portion: P.
        add_up: the sum of a tensor over all processes, of which each counts its own images.
        device: of the scores.

    Attributes:
        numbers, ranks: n_c and m_c of each class, known after `thresholds`.
    """

    def __init__(
        self,
        classes: int,
        portion: float,
        add_up: Callable[[Tensor], Tensor] = lambda counts: counts,
        device: torch.device | None = None,
    ):
        self.classes, self.portion, self.add_up, self.device = classes, portion, add_up, device
        self.numbers: list[int] = []
        self.ranks: list[int] = []

    def thresholds(self, sweep: Callable[[], Iterable[list[Tensor]]]) -> Tensor:
        """lambda_c of every class, (C,) float32 on the CPU.

        Args:
            sweep: starts a pass over this process's images, which yields the `class_scores` of each.
        """
        counts = self._count(sweep(), lambda bits, _: bits >> LOW_BITS)
        self.numbers = counts.sum(1).tolist()
        self.ranks = [class_rank(number, self.portion) for number in self.numbers]
        ranks = torch.tensor(self.ranks)
        upper, remaining = _locate(counts, ranks)
        counts = self._count(sweep(), lambda bits, c: bits[bits >> LOW_BITS == upper[c]] & (DIGITS - 1))
        lower, _ = _locate(counts, remaining)
        found = ((upper << LOW_BITS) | lower).to(torch.int32).view(torch.float32)
        return torch.where(ranks > 0, found, 1.0)

    def _count(self, images: Iterable[list[Tensor]], digits: Callable[[Tensor, int], Tensor]) -> Tensor:
        """How often each digit occurs in the scores of each class, (C, DIGITS) int64 on the CPU."""
        counts = torch.zeros(self.classes, DIGITS, dtype=torch.int64, device=self.device)
        for scores in images:
            for index, values in enumerate(scores):
                counts[index] += torch.bincount(digits(values.view(torch.int32), index), minlength=DIGITS)
        return self.add_up(counts).cpu()


def _locate(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """The digit of each class's m-th largest score (C,), and the score's rank among those of that digit."""
    at_least = counts.flip(1).cumsum(1).flip(1)  # scores of this digit or a larger one
    digit = ((at_least >= ranks[:, None]).sum(1) - 1).clamp_min(0)
    return digit, ranks - (at_least - counts).gather(1, digit[:, None])[:, 0]


def hard_labels(p: Tensor, thresholds: Tensor) -> Tensor:
    """argmax_c p_c / lambda_c, and 255 where even the largest ratio is below 1; (H, W) uint8.

    So a pixel may move to a class that is rare but confident for its kind.
    """
    ratio, label = (p / thresholds[:, None, None]).max(0)
    return label.to(torch.uint8).masked_fill_(ratio < 1, IGNORE)


def soft_labels(p: Tensor, thresholds: Tensor, alpha: float) -> Tensor:
    """LRENT's labels y_c = (p_c / lambda_c)^(1 / alpha) / Z, (C, H, W) float32, all 0 where Z <= 1.

    Z is the sum of the powers. The pixels with a label are those whose regularised loss is lower with y than
    with no label at all (CRST, label entropy); for alpha -> 0 they become those of `hard_labels`.
    """
    powers = (p.double() / thresholds.double()[:, None, None]).log_().div_(alpha)  # logarithms: no overflow
    log_z = powers.logsumexp(0)
    return powers.sub_(log_z).exp_().masked_fill_(log_z <= 0, 0).float()


def hard_of_soft(soft: Tensor) -> Tensor:
    """The largest class of label vectors (C, H, W), and 255 where they are 0; (H, W) uint8."""
    value, label = soft.max(0)
    return label.to(torch.uint8).masked_fill_(value == 0, IGNORE)


def mined_classes(pixels: Tensor, mine_port: float = MINE_PORT) -> list[int]:
    """Ascending, the classes with less than `mine_port` of all predicted pixels (C,), or with none."""
    rare = (pixels.double() / pixels.sum() < mine_port) | (pixels == 0)
    return rare.nonzero()[:, 0].tolist()


def image_score(p: Tensor) -> float:
    """Confidence of an image: the mean, over the classes predicted in it, of the class's mean score."""
    scores = [of_class.double().mean() for of_class in class_scores(p, ds_rate=1) if len(of_class)]
    return torch.stack(scores).mean().item()
