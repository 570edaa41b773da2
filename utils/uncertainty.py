"""Uncertainty of a prediction: of the two classifiers, by Monte-Carlo dropout, and what it is worth.

Rectifying is arXiv 2003.03773.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from utils.distributed import Processes
from utils.losses import kl_divergence
from utils.parts import cached_parts

UNCERTAINTIES = {  # --uncertainty: what it measures, as captions name it
    "kl": "KL divergence of the two classifiers",
    "mc-dropout": "mutual information under Monte-Carlo dropout",
}
DROPOUT_PASSES = 10  # T


def classifier_divergence(z1: Tensor, z2: Tensor) -> Tensor:
    """KL(p2 || p1) of the primary to the auxiliary classifier's logits (N, C, H, W), nats: (N, H, W)."""
    return kl_divergence(z2.log_softmax(1), z1.log_softmax(1))


@contextmanager
def active_dropout(network: nn.Module, rate: float | None = None) -> Iterator[None]:
    """Within it the dropout layers drop with probability `rate`, or their own (None); nothing else trains.

    Afterwards, on an error too, they are as before.
    """
    layers = [module for module in network.modules() if isinstance(module, (nn.Dropout, nn.Dropout2d))]
    before = [(layer.training, layer.p) for layer in layers]
    try:
        for layer in layers:
            layer.training = True
            layer.p = layer.p if rate is None else rate
        yield
    finally:
        for layer, (training, p) in zip(layers, before, strict=True):
            layer.training, layer.p = training, p


@torch.inference_mode()
def dropout_divergence(
    network: nn.Module,
    images: Tensor,
    passes: int = DROPOUT_PASSES,
    rate: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Mutual information of a pixel's class and the dropped channels, by Monte-Carlo dropout.

    D = H(mean_t p_t) - mean_t H(p_t) = mean_t KL(p_t || mean_t p_t), with p_t the softmax of the primary
    classifier's logits in pass t of T with dropout on and all else, batch normalisation too, in evaluation
    mode. (Gal and Ghahramani 2016, arXiv 1506.02142; the mutual information is that of Houlsby et al. 2011,
    arXiv 1112.5745.)

    Costs one pass of the network and T of its last 1x1 convolution: dropout sits directly before that, so
    all that precedes is the same in every pass. Pass t drops the same channels of every image: the result
    of an image depends neither on the batch around it nor on the device, nor on torch's random state, which
    is left as it was.

    Args:
        network: a `DeeplabMulti` in evaluation mode.
        images: (N, 3, h, w) BGR minus mean.
        passes: T, at least 1.
        rate: the drop rate; None is the network's own.
        seed: of the dropped channels.

    Returns:
        (N, h/8, w/8), nats, 0 ... log(min(C, T)).
    """
    if passes < 1:
        raise ValueError(f"passes is {passes}, must be at least 1")
    head = network.layer6.head
    dropout, classes = head
    features = _input_of(head, network, images)
    with active_dropout(network, rate), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        masks = dropout(torch.ones(passes, features.shape[1], 1, 1)).to(features)
    samples = [classes(features * mask).log_softmax(1) for mask in masks]
    log_mean = torch.stack(samples).logsumexp(0) - math.log(passes)
    divergence = sum(kl_divergence(sample, log_mean) for sample in samples) / passes
    return divergence.clamp_min(0)  # rounding alone makes it negative


def _input_of(module: nn.Module, network: nn.Module, images: Tensor) -> Tensor:
    """What `module` is given while `network` sees the images."""
    inputs = []
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return inputs[0]


class UncertaintyGap:
    """Mean exp(-D) over rightly minus wrongly predicted pixels of a whole set (Rectifying).

    The larger the gap, the better the uncertainty D tells errors. Its sums, in float64 where the device has
    it, stay on the device, so that `add` never waits for it.
    """

    def __init__(self, classes: int):
        self.classes = classes
        # Of right and of wrong pixels: sum of exp(-D), and how many; on the device from the first image on.
        self._certainty = torch.zeros(2, dtype=torch.float64)
        self._pixels = torch.zeros(2, dtype=torch.int64)

    def add(self, label: Tensor, prediction: Tensor, uncertainty: Tensor) -> None:
        """Count an image in; all (H, W), on one device.

        Args:
            label: integers; a pixel outside 0 ... C-1 counts nowhere.
            prediction: the predicted label, integers.
            uncertainty: D, nats, finite.
        """
        if self._certainty.device != uncertainty.device:
            wide = torch.float32 if uncertainty.device.type == "mps" else torch.float64
            self._certainty = torch.zeros(2, dtype=wide, device=uncertainty.device)
            self._pixels = torch.zeros(2, dtype=torch.int64, device=uncertainty.device)
        for part in cached_parts(label, prediction, uncertainty):
            self._add(*part)

    def _add(self, label: Tensor, prediction: Tensor, uncertainty: Tensor) -> None:
        known = (label >= 0) & (label < self.classes)
        right = label == prediction
        pixels = torch.stack([known & right, known & ~right]).flatten(1)
        certainty = uncertainty.to(self._certainty.dtype, copy=True).neg_().exp_().flatten()
        # Bytes become floats several times as fast as truth values do.
        self._certainty += pixels.view(torch.uint8).to(certainty.dtype).mul_(certainty).sum(1)
        self._pixels += pixels.sum(1)

    def gather(self, processes: Processes, device: torch.device) -> None:
        """Count in what all processes counted; `device` is where they communicate."""
        if processes.is_distributed:
            self._certainty = processes.all_reduce_sum(self._certainty.to(device))
            self._pixels = processes.all_reduce_sum(self._pixels.to(device))

    def means(self) -> tuple[float, float]:
        """Mean exp(-D) over right and over wrong pixels, nan where there is none."""
        right, wrong = (self._certainty / self._pixels).tolist()
        return right, wrong

    def value(self) -> float:
        """The gap; nan unless there are both right and wrong pixels."""
        right, wrong = self.means()
        return right - wrong
