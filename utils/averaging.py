"""Averages of a network over its training, and sampling weights of target images (AdaBoost_Seg).

"Adaptive Boosting for Domain Adaptation: Towards Robust Predictions in Scene Segmentation", Zheng and Yang,
TIP 2022 (arXiv 2103.15685), as its released results were computed. engine/averaging.py runs it in a training.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn, update_bn

from utils.distributed import SINGLE_PROCESS, Processes
from utils.losses import fuse
from utils.uncertainty import classifier_divergence
from utils.upsampling import upsample

# How strongly the classifiers disagree about a pixel: (z1, z2), logits (N, C, H, W) -> (N, H, W) in nats.
MEASURES = {
    "variance": classifier_divergence,
    "entropy": lambda z1, z2: _entropy(fuse(z1, z2).log_softmax(1)),
}


def new_average(network: nn.Module, ema: float = 0.0) -> AveragedModel:
    """An empty average of the parameters of networks like this one.

    `update_parameters(network)` takes a network in, with equal weights or, with `ema` e > 0, as
    e * average + (1 - e) * network. Buffers are not averaged: see `estimate_statistics`.
    """
    return AveragedModel(network, avg_fn=get_ema_avg_fn(ema) if ema else get_swa_avg_fn())


def estimate_statistics(
    network: nn.Module, batches: Iterable[Tensor], across: Processes = SINGLE_PROCESS
) -> None:
    """Replace the BN statistics by the means, over all batches, of each batch's mean and unbiased variance.

    Args:
        network: changed in place.
        batches: of (N, 3, H, W); each is shown as it is and mirrored. A smaller one counts like the others.
        across: each rank shows batches of its own, and the means are over those of all ranks.
    """
    update_bn((view for images in batches for view in (images, images.flip(3))), network)
    if not across.is_distributed:
        return
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
        shown, total = norm.num_batches_tracked, across.all_reduce_sum(norm.num_batches_tracked)
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(across.all_reduce_sum(statistic * shown) / total)
        shown.copy_(total)


@torch.no_grad()
def measure(network: nn.Module, images: Tensor, size: tuple[int, int], adatype: str) -> Tensor:
    """`measure_of` a network's logits of images (N, 3, H, W): (N,).

    As released the network is in training mode: it uses the batch's own statistics and dropout. Neither its
    modes nor its buffers change.
    """
    return measure_of(*copy.deepcopy(network).train()(images), size, adatype)


def measure_of(z1: Tensor, z2: Tensor, size: tuple[int, int], adatype: str) -> Tensor:
    """One of `MEASURES` per image, the mean over its pixels: (N,).

    Args:
        z1, z2: logits (N, C, h, w) of the auxiliary and the primary classifier, upsampled to `size`.
    """
    # One image at a time: maps of the full size take 40 MB each.
    pairs = zip(z1.split(1), z2.split(1), strict=True)
    return torch.stack([MEASURES[adatype](upsample(a, size), upsample(b, size)).mean() for a, b in pairs])


def update_weights(w: Tensor, v: Tensor, temperature: float = 1.0) -> Tensor:
    """The images' new sampling weights (softmax(v / temperature) + w) / 2; all (N,)."""
    return ((v / temperature).softmax(0) + w) / 2


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(1)
