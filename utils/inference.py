"""Prediction as both papers test: several scales, each also mirrored; and from a single pass.

Logits of every pass -> probabilities, summed over passes and upsampled -> argmax and maximum on the device.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from utils.argmax import max_of_sum
from utils.device import single_thread, to_device
from utils.distributed import SINGLE_PROCESS, Processes
from utils.losses import CLASSIFIER_WEIGHTS, fuse
from utils.memory import unless_out_of_memory
from utils.preprocess import to_network_input
from utils.uncertainty import DROPOUT_PASSES, UNCERTAINTIES, classifier_divergence, dropout_divergence
from utils.upsampling import upsample

NOT_FINITE = (
    "the network's scores or uncertainties are not finite; choose another snapshot (--restore-from), or "
    "--precision fp32 if it was fp16"
)
Logits = tuple[Tensor, Tensor]  # (N, C, h/8, w/8) of the auxiliary and of the primary classifier
T = TypeVar("T")
log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """One image: `label` (H, W) uint8 train ids, `score` (H, W) from 0 to 1, `uncertainty` (H, W) in nats."""

    label: Tensor
    score: Tensor
    uncertainty: Tensor


def predict(
    network: nn.Module,
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    *,
    weights: tuple[float, float] = CLASSIFIER_WEIGHTS,
    **uncertainty_options,
) -> list[Prediction]:
    """`predict_weightings` with a single weighting: one prediction per image."""
    results = predict_weightings(network, images, sizes, [weights], **uncertainty_options)
    return [prediction for (prediction,) in results]


@torch.inference_mode()
def predict_weightings(
    network: nn.Module,
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    weightings: Sequence[tuple[float, float]],
    **uncertainty_options,
) -> list[list[Prediction]]:
    """Predict a batch from several scales and their mirror images, with several classifier weightings.

    The probabilities softmax(w1 * z1 + w2 * z2) of all passes are upsampled and summed. The label is their
    argmax, the score their maximum divided by the number of passes. The network runs twice per scale however
    many weightings there are, and once more for "mc-dropout".

    Args:
        network: in evaluation mode, (N, 3, h, w) -> `Logits`.
        images: the batch at each scale, (N, 3, h, w) BGR minus mean; the first is scale 1.
        sizes: (height, width) of the result, one per image.
        weightings: (w1, w2) of the auxiliary and the primary logits.
        uncertainty_options: keywords of `pixel_uncertainty`.

    Returns:
        For each image one prediction per weighting; these share the image's uncertainty.
    """
    maps, uncertainty = summed_maps(network, images, weightings, **uncertainty_options)
    results = []
    with single_thread():
        for index, size in enumerate(sizes):  # full-size maps of one image at a time
            image = slice(index, index + 1)
            shown = upsample(uncertainty[image], size)[0, 0]
            best = [max_of_sum([p[image] for p in of_weighting], size) for of_weighting in maps]
            passes = 2 * len(images)
            results.append([Prediction(label, score.div_(passes), shown) for score, label in best])
    return results


def summed_maps(
    network: nn.Module,
    images: Sequence[Tensor],
    weightings: Sequence[tuple[float, float]],
    **uncertainty_options,
) -> tuple[list[list[Tensor]], Tensor]:
    """What predictions are upsampled from; arguments as in `predict_weightings`.

    Returns:
        For each weighting and scale the probabilities of a pass and its mirror image, summed: (N, C, h/8,
        w/8); and the uncertainty (N, 1, h/8, w/8).
    """
    scales = [_pass_and_mirror(network, batch) for batch in images]
    uncertainty = pixel_uncertainty(network, images[0], *scales[0], **uncertainty_options)[:, None]
    with single_thread():
        # Upsampling is linear, so a scale and its mirror are added first and upsampled once.
        maps = [
            [reduce(Tensor.add_, (fuse(*z, w).softmax(1) for z in scale)) for scale in scales]
            for w in weightings
        ]
    return maps, uncertainty


def _pass_and_mirror(network: nn.Module, images: Tensor) -> tuple[Logits, Logits]:
    """Logits of the images, and of their mirror images, mirrored back."""
    logits, mirrored = network(images), network(_mirror(images))
    return logits, tuple(map(_mirror, mirrored))


@single_thread()
def _mirror(maps: Tensor) -> Tensor:
    return maps.flip(3)


def pixel_uncertainty(
    network: nn.Module,
    images: Tensor,
    logits: Logits,
    mirrored: Logits,
    *,
    mirrored_uncertainty: bool = False,
    uncertainty: str = "kl",
    passes: int = DROPOUT_PASSES,
    droprate: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Uncertainty at scale 1, (N, h/8, w/8) in nats.

    Args:
        images: (N, 3, h, w), with their `logits`, and those of their mirror images.
        mirrored_uncertainty: measure "kl" on the logits summed over the image and its mirror (evaluation)
            instead of the image alone (pseudo labels).
        uncertainty: "kl", of the primary to the auxiliary classifier, or "mc-dropout", of the primary
            classifier under dropout.
        passes, droprate, seed: see `utils.uncertainty.dropout_divergence`.
    """
    if uncertainty not in UNCERTAINTIES:
        raise ValueError(f"unknown uncertainty {uncertainty!r}; choose from {', '.join(UNCERTAINTIES)}")
    if uncertainty == "mc-dropout":
        return dropout_divergence(network, images, passes, droprate, seed)
    with single_thread():
        aux, main = map(torch.add, logits, mirrored) if mirrored_uncertainty else logits
        return classifier_divergence(aux, main)


def predict_all(
    network: nn.Module,
    batches: Iterable[dict],
    device: torch.device,
    weightings: Sequence[tuple[float, float]],
    processes: Processes = SINGLE_PROCESS,
    **uncertainty_options,
) -> Iterator[tuple[str, Tensor, list[Prediction]]]:
    """Name, label (H, W) and one prediction per weighting of each image in batches of `PredictionDataset`.

    Labels and predictions are on the device.
    """
    compute = partial(predict_weightings, network, weightings=weightings, **uncertainty_options)
    for part, predictions in _fitting_parts(compute, batches, device, processes):
        labels = [to_device(label, device) for label in part["label"]]
        yield from zip(part["name"], labels, predictions, strict=True)


@torch.inference_mode()
def predict_maps(
    network: nn.Module,
    batches: Iterable[dict],
    device: torch.device,
    weights: tuple[float, float],
    processes: Processes = SINGLE_PROCESS,
) -> Iterator[tuple[str, tuple[int, int], list[Tensor]]]:
    """Name, size and `summed_maps` of each image: one (C, h/8, w/8) per scale, then the uncertainty."""

    def compute(images: list[Tensor], sizes: Sequence[tuple[int, int]]) -> tuple[list[list[Tensor]], Tensor]:
        return summed_maps(network, images, [weights])

    for part, ((maps,), uncertainty) in _fitting_parts(compute, batches, device, processes):
        yield from zip(part["name"], part["size"], zip(*maps, uncertainty, strict=True), strict=True)


def _fitting_parts(
    compute: Callable[[list[Tensor], Sequence[tuple[int, int]]], T],
    batches: Iterable[dict],
    device: torch.device,
    processes: Processes,
) -> Iterator[tuple[dict, T]]:
    """The batches and what `compute` returns for their network inputs, one per scale, and their sizes.

    When memory runs out, the batch and those after it continue in parts of half its images, down to single
    ones. After their first batch all processes continue with parts of what fits on the smallest device.
    """

    def attempt(part: dict) -> T:
        with single_thread():
            images = [to_network_input(to_device(scale, device)) for scale in part["images"]]
        return compute(images, part["size"])

    limit, seen = sys.maxsize, 0
    for seen, batch in enumerate(batches, start=1):  # noqa: B007 - counts
        start, images = 0, len(batch["name"])
        while start < images:
            end = min(images, start + limit)
            part = {key: values[start:end] for key, values in batch.items()}
            part["images"] = [scale[start:end] for scale in batch["images"]]
            result = attempt(part) if end - start == 1 else unless_out_of_memory(partial(attempt, part))
            if result is None:
                limit = (end - start) // 2
                log.warning("Out of memory with %d images at once: continuing with %d.", end - start, limit)
            else:
                yield part, result
                start = end
        if seen == 1:
            limit = processes.all_reduce_min(limit)
    if not seen:  # a process without images; the others wait for it
        processes.all_reduce_min(limit)


def scaled_sizes(size: tuple[int, int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """(height, width) at each scale, rounded to at least one pixel."""
    return [tuple(max(1, round(scale * side)) for side in size) for scale in scales]


class SingleScaleModel(nn.Module):
    """Prediction from a single pass, pixels in and labels out: the fast mode, and the content of ONNX files.

    Args:
        network: a `DeeplabMulti` in evaluation mode.
        logits: also return the fused logits.
    """

    def __init__(self, network: nn.Module, logits: bool = False):
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """Segment RGB images (N, h, w, 3) uint8; `size` (H, W) of the result is theirs if None.

        Returns:
            label (N, H, W) uint8, score (N, H, W), uncertainty (N, H, W) in nats and, with `logits`, the
            fused logits (N, C, h/8, w/8). As in `predict`, probabilities are upsampled, not logits.
        """
        size = tuple(images.shape[1:3]) if size is None else size
        aux, main = self.network(to_network_input(images))
        logits = fuse(aux, main)
        score, label = upsample(logits.softmax(1), size).max(1)
        uncertainty = upsample(classifier_divergence(aux, main)[:, None], size)[:, 0]
        results = label.byte(), score, uncertainty
        return (*results, logits) if self.logits else results
