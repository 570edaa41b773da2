"""Uncertainty of a prediction, between the two classifiers or by Monte-Carlo dropout, and how useful it is.

Rectifying is arXiv 2003.03773.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor, nn

from utils.device import InPrecision, single_thread
from utils.distributed import Processes
from utils.losses import kl_divergence

UNCERTAINTIES = {  # choices of --uncertainty, with captions
    "kl": "KL divergence of the two classifiers",
    "mc-dropout": "mutual information under Monte-Carlo dropout",
}
DROPOUT_PASSES = 10  # T
CACHED_PIXELS = 1 << 15


def classifier_divergence(z1: Tensor, z2: Tensor) -> Tensor:
    """KL(p2 || p1) in nats, (N, H, W), from the auxiliary and the primary logits (N, C, H, W)."""
    return kl_divergence(z2.log_softmax(1), z1.log_softmax(1))


@contextmanager
def active_dropout(network: nn.Module, rate: float | None = None) -> Iterator[None]:
    """Activate the dropout layers, with probability `rate` or their own (None), and restore them on exit."""
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
    """Mutual information between a pixel's class and the dropped channels, by Monte-Carlo dropout.

    D = H(mean_t p_t) - mean_t H(p_t) = mean_t KL(p_t || mean_t p_t), where p_t is the softmax of the primary
    classifier's logits in pass t of T, with dropout active and everything else in evaluation mode. (Gal and
    Ghahramani 2016, arXiv 1506.02142; Houlsby et al. 2011, arXiv 1112.5745, for the mutual information.)

    Dropout sits directly before the last 1x1 convolution, so only that is repeated: the cost is one pass of
    the network and T convolutions. Pass t drops the same channels in every image, so the result of an image
    depends neither on its batch nor on the device. torch's random state is left unchanged.

    Args:
        network: a `DeeplabMulti` in evaluation mode, or one in a `InPrecision`; the last convolution is then
            computed in the dtype of its weights.
        images: (N, 3, h, w) BGR minus mean.
        passes: T, at least 1.
        rate: dropout probability; None: the network's own.
        seed: of the dropped channels.

    Returns:
        (N, h/8, w/8) in nats, from 0 to log(min(C, T)).
    """
    if passes < 1:
        raise ValueError(f"passes is {passes}, must be at least 1")
    head = (network.network if isinstance(network, InPrecision) else network).layer6.head
    dropout, classes = head
    features = _input_of(head, network, images).to(classes.weight.dtype)
    with active_dropout(network, rate), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        masks = dropout(torch.ones(passes, features.shape[1], 1, 1)).to(features)
    samples = [classes(features * mask).log_softmax(1) for mask in masks]
    log_mean = torch.stack(samples).logsumexp(0) - math.log(passes)
    divergence = reduce(Tensor.add_, (kl_divergence(sample, log_mean) for sample in samples)).div_(passes)
    return divergence.clamp_min_(0)  # negative only by rounding


def _input_of(module: nn.Module, network: nn.Module, images: Tensor) -> Tensor:
    """The input of `module` in a forward pass of `network`."""
    inputs = []
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        network(images)
    finally:
        handle.remove()
    return inputs[0]


class UncertaintyGap:
    """Mean exp(-D) of correctly minus that of wrongly predicted pixels over a whole set (Rectifying).

    The larger the gap, the better the uncertainty D predicts errors. The float64 sums stay on the device, so
    `add` never synchronises.
    """

    def __init__(self, classes: int):
        self.classes = classes
        self.certainty = torch.zeros(2, dtype=torch.float64)  # sums of exp(-D) over right and wrong pixels
        self.pixels = torch.zeros(2, dtype=torch.int64)

    @single_thread()
    def add(self, label: Tensor, prediction: Tensor, uncertainty: Tensor) -> None:
        """Add an image; all (H, W), on one device.

        Args:
            label: integers; pixels outside 0 ... C-1 are ignored.
            prediction: the predicted label, integers.
            uncertainty: D in nats, finite.
        """
        self.certainty, self.pixels = self.certainty.to(label.device), self.pixels.to(label.device)
        # A CPU's cache holds a part and its temporaries, which makes the sums four times as fast.
        size = CACHED_PIXELS if label.device.type == "cpu" else label.numel()
        maps = (label, prediction, uncertainty)
        for truth, guess, nats in zip(*(values.flatten().split(size) for values in maps), strict=True):
            known, right = (truth >= 0) & (truth < self.classes), truth == guess
            groups = torch.stack([known & right, known & ~right])
            certainty = nats.to(torch.float64, copy=True).neg_().exp_()
            # uint8 converts to float64 several times as fast as bool.
            self.certainty += groups.view(torch.uint8).double().mul_(certainty).sum(1)
            self.pixels += groups.sum(1)

    def gather(self, processes: Processes, device: torch.device) -> None:
        """Add the sums of all processes, which communicate through `device`."""
        if processes.is_distributed:
            self.certainty = processes.all_reduce_sum(self.certainty.to(device))
            self.pixels = processes.all_reduce_sum(self.pixels.to(device))

    def means(self) -> tuple[float, float]:
        """Mean exp(-D) of the right and of the wrong pixels; nan for none."""
        right, wrong = (self.certainty / self.pixels).tolist()
        return right, wrong

    def value(self) -> float:
        """The gap; nan unless there are both right and wrong pixels."""
        right, wrong = self.means()
        return right - wrong
