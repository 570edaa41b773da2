"""Prediction with several scales, each also mirrored, as both papers test."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.deeplab_multi import CLASSIFIER_WEIGHTS, fuse
from utils.losses import kl_divergence
from utils.preprocess import to_network_input


class Prediction(NamedTuple):
    """Of one image, each (H, W): `label` uint8, `score` in 0 ... 1, `uncertainty`, the KL divergence."""

    label: Tensor
    score: Tensor
    uncertainty: Tensor


@torch.inference_mode()
def predict(
    network: nn.Module,
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    *,
    weights: tuple[float, float] = CLASSIFIER_WEIGHTS,
    mirrored_uncertainty: bool = False,
) -> list[Prediction]:
    """Predict a batch seen at several scales.

    The probabilities softmax(0.5 * z1 + z2) of every scale and its mirror image are upsampled and summed;
    the label is their argmax, the score their maximum a pass. Mirrors of one scale are added before they
    are upsampled, which is linear.

    Args:
        network: in evaluation mode, (N, 3, h, w) -> logits (N, C, h/8, w/8) of both classifiers.
        images: the batch at each scale, (N, 3, h, w) BGR minus mean; the first is scale 1.
        sizes: (height, width) of the result of each image.
        weights: of the auxiliary and the primary logits.
        mirrored_uncertainty: measure it on the logits summed over scale 1 and its mirror (evaluation)
            instead of scale 1 alone (pseudo labels).
    """
    probabilities, uncertainty = [], None
    for batch in images:
        z1, z2 = network(batch)
        mirrored = [z.flip(3) for z in network(batch.flip(3))]
        probabilities.append(fuse(z1, z2, weights).softmax(1) + fuse(*mirrored, weights).softmax(1))
        if uncertainty is None:
            if mirrored_uncertainty:
                z1, z2 = z1 + mirrored[0], z2 + mirrored[1]
            uncertainty = kl_divergence(z2.log_softmax(1), z1.log_softmax(1))[:, None]
    passes = 2 * len(probabilities)
    results = []
    for index, size in enumerate(sizes):  # one image at a time bounds the memory of full-size probabilities
        total = sum(_upsample(p[index : index + 1], size) for p in probabilities)
        score, label = total[0].max(0)
        kl = _upsample(uncertainty[index : index + 1], size)[0, 0]
        results.append(Prediction(label.to(torch.uint8), score / passes, kl))
    return results


def _upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def predict_all(
    network: nn.Module, batches: Iterable[dict], device: torch.device, **options
) -> Iterator[tuple[str, Tensor, Prediction]]:
    """Name, label (H, W) and prediction of every image in batches of `dataset.PredictionDataset`."""
    for batch in batches:
        images = [to_network_input(scale.to(device, non_blocking=True)) for scale in batch["images"]]
        predictions = predict(network, images, batch["size"], **options)
        yield from zip(batch["name"], batch["label"], predictions, strict=True)


def scaled_sizes(size: tuple[int, int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """(height, width) at each scale, rounded."""
    return [tuple(round(scale * side) for side in size) for scale in scales]
