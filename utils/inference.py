"""Prediction with several scales, each also mirrored, as both papers test."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.device import to_device
from utils.losses import CLASSIFIER_WEIGHTS, fuse
from utils.parts import one_thread
from utils.preprocess import to_network_input
from utils.uncertainty import DROPOUT_PASSES, UNCERTAINTIES, classifier_divergence, dropout_divergence
from utils.upsampling import maximum_of_sum, upsample

NOT_FINITE = "the network's scores or uncertainties are not finite; name another snapshot (--restore-from)"


class Prediction(NamedTuple):
    """Of one image, each (H, W): `label` uint8, `score` in 0 ... 1, `uncertainty` in nats."""

    label: Tensor
    score: Tensor
    uncertainty: Tensor


def predict(
    network: nn.Module,
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    *,
    weights: tuple[float, float] = CLASSIFIER_WEIGHTS,
    mirrored_uncertainty: bool = False,
    **options,
) -> list[Prediction]:
    """`predict_weightings`, whose `options` it takes, of a single weighting: a prediction an image."""
    options["mirrored_uncertainty"] = mirrored_uncertainty
    results = predict_weightings(network, images, sizes, [weights], **options)
    return [prediction for (prediction,) in results]


@torch.inference_mode()
def predict_weightings(
    network: nn.Module,
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    weightings: Sequence[tuple[float, float]],
    *,
    mirrored_uncertainty: bool = False,
    uncertainty: str = "kl",
    passes: int = DROPOUT_PASSES,
    droprate: float | None = None,
    seed: int = 0,
) -> list[list[Prediction]]:
    """Predict a batch seen at several scales, with several weightings of the two classifiers.

    The probabilities softmax(w1 * z1 + w2 * z2) of every scale and its mirror image are upsampled and
    summed; the label is their argmax, the score their maximum a pass. Mirrors of one scale are added before
    they are upsampled, which is linear. The network runs twice a scale however many weightings there are,
    and once more for "mc-dropout".

    Args:
        network: in evaluation mode, (N, 3, h, w) -> logits (N, C, h/8, w/8) of both classifiers.
        images: the batch at each scale, (N, 3, h, w) BGR minus mean; the first is scale 1.
        sizes: (height, width) of the result of each image.
        weightings: of the auxiliary and the primary logits, (w1, w2) each.
        mirrored_uncertainty: measure "kl" on the logits summed over scale 1 and its mirror (evaluation)
            instead of scale 1 alone (pseudo labels).
        uncertainty: "kl", of the primary to the auxiliary classifier, or "mc-dropout", of the primary
            classifier on scale 1 under dropout; label and score are without dropout either way.
        passes, droprate, seed: of "mc-dropout", see `utils.uncertainty.dropout_divergence`.

    Returns:
        For each image a prediction a weighting; these share the image's uncertainty.
    """
    if uncertainty not in UNCERTAINTIES:
        raise ValueError(f"uncertainty {uncertainty!r} is none of {', '.join(UNCERTAINTIES)}")
    device = images[0].device
    with one_thread(device):  # the network alone gains from several
        mirrored = [batch.flip(3) for batch in images]
    logits = [tuple(map(network, pair)) for pair in zip(images, mirrored, strict=True)]
    divergence = None
    if uncertainty == "mc-dropout":
        divergence = dropout_divergence(network, images[0], passes, droprate, seed)
    with one_thread(device):
        scales = [(pair, [z.flip(3) for z in mirror]) for pair, mirror in logits]
        if divergence is None:
            classifiers = map(sum, zip(*scales[0], strict=True)) if mirrored_uncertainty else scales[0][0]
            divergence = classifier_divergence(*classifiers)
        results = []
        for index, size in enumerate(sizes):
            image = slice(index, index + 1)
            of_image = [[[z[image] for z in pair] for pair in scale] for scale in scales]
            shown = upsample(divergence[image, None], size)[0, 0]
            results.append([Prediction(*_fused_label(of_image, size, w), shown) for w in weightings])
    return results


def _fused_label(
    scales: Sequence[Sequence[Sequence[Tensor]]], size: tuple[int, int], weights: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Label and score of one image; full-size probabilities never exist of more than one.

    Args:
        scales: of each scale the two classifiers' logits (1, C, h, w) of the pass and of its mirror.
    """
    # Upsampling is linear, so a scale and its mirror share one.
    score, label = maximum_of_sum(
        [sum(fuse(*z, weights).softmax(1) for z in scale) for scale in scales], size
    )
    return label, score.div_(2 * len(scales))


def predict_all(
    network: nn.Module,
    batches: Iterable[dict],
    device: torch.device,
    *,
    weightings: Sequence[tuple[float, float]] | None = None,
    **options,
) -> Iterator[tuple[str, Tensor, Prediction | list[Prediction]]]:
    """Name, label (H, W) and prediction of every image in batches of `dataset.PredictionDataset`.

    With `weightings` a list of predictions, one a weighting, stands in place of the prediction. `options`
    are those of `predict` or `predict_weightings`.
    """
    run = predict if weightings is None else partial(predict_weightings, weightings=weightings)
    for batch in batches:
        scales = [to_device(scale, device) for scale in batch["images"]]
        with one_thread(device):
            images = [to_network_input(scale) for scale in scales]
        predictions = run(network, images, batch["size"], **options)
        yield from zip(batch["name"], batch["label"], predictions, strict=True)


def scaled_sizes(size: tuple[int, int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """(height, width) at each scale, rounded, at least one pixel."""
    return [tuple(max(1, round(scale * side)) for side in size) for scale in scales]
