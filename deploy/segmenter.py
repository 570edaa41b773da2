"""A trained network as a function from images to classes.

    segmenter = load_segmenter("snapshots/stage2/GTA5_25000.pth")
    result = segmenter(Image.open("street.jpg"))        # result.label, result.score, result.uncertainty
    segmenter.overlay(image, result).save("street_overlay.png")

`hubconf.py` offers it to `torch.hub`, `segment.py` on the command line.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dataset.images import is_deep, mode_of
from dataset.labels import Colors
from dataset.transforms import resize_whole
from deploy.legends import class_overlay, overlay_with_legend, uncertainty_overlay
from engine.restore import read_snapshot, recognise, restore_network, trained_size
from model.deeplab_multi import STRIDE
from utils.errors import UserError
from utils.inference import NOT_FINITE, SingleScaleModel, predict, scaled_sizes
from utils.preprocess import to_network_input

# Up to this ratio of aspect ratios an image is resized to the training's size, as the evaluation does. Beyond
# it (upright phones, panoramas) it keeps its aspect ratio and gets the training's number of pixels.
MAX_STRETCH = 1.5
# Larger images are labelled at this many pixels and the result is enlarged, because several full-size maps of
# every class would not fit into memory; a logit cell covers many pixels of such an image anyway.
MAX_PIXELS = 4096 * 2304


class Segmentation(NamedTuple):
    """Maps of one image, (H, W) each: `label` uint8 train ids, `score` 0 to 1, `uncertainty` in nats."""

    label: np.ndarray
    score: np.ndarray
    uncertainty: np.ndarray


@dataclass(frozen=True)
class Segmenter:
    """Segments images of any size."""

    network: nn.Module  # `DeeplabMulti` in evaluation mode, on `device`
    colors: Colors  # in train id order
    input_size: tuple[int, int]  # (height, width) at scale 1
    scales: Sequence[float]  # prediction scales, each also mirrored; the first must be 1
    device: torch.device
    fixed_size: bool = False  # resize images of every shape to `input_size`, see `MAX_STRETCH`

    @torch.inference_mode()
    def __call__(self, image: Image.Image | np.ndarray, fast: bool = False) -> Segmentation:
        """Segment one image.

        Args:
            image: a PIL image or RGB (H, W, 3) uint8 (OpenCV uses BGR: pass `image[..., ::-1]`).
            fast: one forward pass instead of all scales and their mirror images.

        Raises:
            TypeError, ValueError: not an image, or one with more than 8 bits per channel.
            UserError: the network's scores or uncertainties are not finite.
        """
        image = to_rgb(image)
        size = image.height, image.width
        factor = min(1.0, math.sqrt(MAX_PIXELS / (size[0] * size[1])))
        working_size = tuple(max(1, int(factor * side)) for side in size)
        sizes = scaled_sizes(self.size_for(size), self.scales)
        # Resized as in the evaluation, (1, height, width, 3) uint8 each.
        resized = (resize_whole(np.array(image), scaled)[None].to(self.device) for scaled in sizes)
        if fast:
            model = SingleScaleModel(self.network)
            maps = [values[0] for values in model(next(resized), working_size)]
        else:
            inputs = [to_network_input(batch) for batch in resized]
            (maps,) = predict(self.network, inputs, [working_size], mirrored_uncertainty=True)
        label, score, uncertainty = maps
        if not (score.isfinite().all() and uncertainty.isfinite().all()):
            raise UserError(NOT_FINITE)
        if working_size != size:
            label = F.interpolate(label[None, None], size, mode="nearest-exact")[0, 0]
            score, uncertainty = F.interpolate(
                torch.stack((score, uncertainty))[None], size, mode="bilinear"
            )[0]
        return Segmentation(*(values.cpu().numpy() for values in (label, score, uncertainty)))

    def size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's input at scale 1 for an image of (height, width) `size`."""
        height, width = self.input_size
        stretch = (width / height) / (size[1] / size[0])
        if self.fixed_size or 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
            return self.input_size
        side, ratio = math.sqrt(height * width), math.sqrt(size[1] / size[0])
        return max(STRIDE, round(side / ratio)), max(STRIDE, round(side * ratio))

    def overlay(
        self, image: Image.Image | np.ndarray, prediction: Segmentation, legend: bool = False
    ) -> Image.Image:
        """The image blended with its classes, optionally above a legend with each class's share."""
        draw = overlay_with_legend if legend else class_overlay
        return draw(to_rgb(image), prediction.label, self.colors)

    def uncertainty(
        self, image: Image.Image | np.ndarray, prediction: Segmentation, maximum: float | None = None
    ) -> Image.Image:
        """The uncertainty as a heat map over the darkened image, above a colour bar in nats.

        Args:
            maximum: right end of the colour bar, to compare images; None: this image's maximum.
        """
        return uncertainty_overlay(to_rgb(image), prediction.uncertainty, maximum)


def load_segmenter(
    snapshot: str | Path,
    device: str | torch.device | None = None,
    input_size: tuple[int, int] | None = None,
    precision: str | None = None,
) -> Segmenter:
    """Load a snapshot, of this or of the published code, with the `opts.yaml` beside it.

    The training data is not needed, and no code in either file is executed.

    Args:
        device: None: a GPU if there is one.
        input_size: (height, width) to resize every image to; None: the target's size in training, except as
            described at `MAX_STRETCH`.
        precision: one of `utils.device.PRECISIONS`; fp32 and tf32 set torch's TF32 switches, for the whole
            program. None: float32, with the switches as they are.

    Raises:
        UserError: the snapshot or its `opts.yaml` cannot be used.
    """
    path, options = read_snapshot(str(snapshot))
    args = Namespace(restore_from=str(snapshot), num_classes=options["num_classes"], precision=precision)
    pair = recognise(path, options, None, None, images=False)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Segmenter(
        restore_network(args, device),
        pair.colors,
        input_size or trained_size(pair, options) or pair.target.target_size,
        pair.evaluation_scales,
        device,
        fixed_size=input_size is not None,
    )


def to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """A PIL image or RGB (H, W, 3) uint8 array as a PIL image in RGB.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"an image array must be RGB (H, W, 3) uint8, not {image.shape} {image.dtype}")
        return Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image must be a PIL image or a numpy array, not {type(image).__name__}")
    if is_deep(mode := mode_of(image)):
        raise ValueError(f"a PIL image of mode {mode} has more than 8 bits; convert it to 8-bit RGB")
    return image.convert("RGB")
