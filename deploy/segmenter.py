"""A trained network for use elsewhere: a snapshot in, a function from pictures to classes out.

    segmenter = load_segmenter("snapshots/stage2/GTA5_25000.pth")
    result = segmenter(Image.open("street.jpg"))        # result.label, result.score, result.uncertainty
    segmenter.overlay(image, result).save("street_overlay.png")

`hubconf.py` offers the same to `torch.hub`, `segment.py` to the command line.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.images import HIGH_DEPTH_MODES
from dataset.labels import Colors
from dataset.transforms import resize_whole
from deploy.legends import class_overlay, overlay_with_legend, uncertainty_picture
from engine.restore import find_snapshot, recognise, restore_network, snapshot_options, trained_size
from model.deeplab_multi import STRIDE, DeeplabMulti
from utils.errors import UserError
from utils.inference import NOT_FINITE, SingleScaleModel, predict, scaled_sizes
from utils.preprocess import to_network_input

# A picture is pressed into the training's proportions, as the evaluation does, if they differ at most so
# much; beyond that (upright phones, panoramas) it keeps its own and the number of pixels of the training.
MAX_STRETCH = 1.5
# Beyond it a picture is labelled at a smaller size, and the result enlarged: a label takes the memory of
# several maps of every class, and the network's cells are many pixels of such a picture anyway.
MAX_PIXELS = 4096 * 2304


class Segmentation(NamedTuple):
    """Of one picture, each (H, W): `label` uint8 (train ids), `score` 0 ... 1, `uncertainty` in nats."""

    label: np.ndarray
    score: np.ndarray
    uncertainty: np.ndarray


class Segmenter:
    """A network that segments pictures of any size.

    Args:
        network: in evaluation mode, on `device`.
        colors: its classes, name -> colour, in train id order.
        input_size: (height, width) that pictures are resized to.
        scales: of the passes, each also mirrored; the first must be 1.
        fixed_size: use `input_size` for pictures of every shape, see `MAX_STRETCH`.
    """

    def __init__(
        self,
        network: DeeplabMulti,
        colors: Colors,
        input_size: tuple[int, int],
        scales: Sequence[float],
        device: torch.device,
        fixed_size: bool = False,
    ):
        self.network, self.colors, self.device = network, colors, device
        self.input_size, self.scales, self.fixed_size = input_size, tuple(scales), fixed_size
        self._one_pass = SingleScaleModel(network)

    @torch.inference_mode()
    def __call__(self, image: Image.Image | np.ndarray, fast: bool = False) -> Segmentation:
        """Segment a picture.

        Args:
            image: PIL, or RGB (H, W, 3) uint8 (OpenCV's pictures are BGR: `image[..., ::-1]`).
            fast: one pass instead of the evaluation's, which are all scales and their mirror images.

        Raises:
            TypeError, ValueError: no picture, or one of more than 8 bits a channel.
            UserError: the network's scores or uncertainties are not finite.
        """
        image = as_picture(image)
        size = image.height, image.width
        shrunk = _within(size, MAX_PIXELS)
        input_size = self.size_for(size)
        if fast:
            prediction = [maps[0] for maps in self._one_pass(self._pixels(image, input_size), shrunk)]
        else:
            sizes = scaled_sizes(input_size, self.scales)
            inputs = [to_network_input(self._pixels(image, scaled)) for scaled in sizes]
            (prediction,) = predict(self.network, inputs, [shrunk], mirrored_uncertainty=True)
        label, *maps = prediction
        if not all(values.isfinite().all() for values in maps):
            raise UserError(NOT_FINITE)
        if shrunk != size:
            label = F.interpolate(label[None, None], size, mode="nearest-exact")[0, 0]
            maps = [F.interpolate(m[None, None], size, mode="bilinear")[0, 0] for m in maps]
        return Segmentation(*(values.cpu().numpy() for values in (label, *maps)))

    def size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at scale 1 of a picture of `size`, see `MAX_STRETCH`."""
        height, width = self.input_size
        stretch = (width / height) / (size[1] / size[0])
        if self.fixed_size or 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
            return self.input_size
        side = math.sqrt(height * width)
        ratio = math.sqrt(size[1] / size[0])
        return max(STRIDE, round(side / ratio)), max(STRIDE, round(side * ratio))

    def overlay(
        self, image: Image.Image | np.ndarray, prediction: Segmentation, legend: bool = False
    ) -> Image.Image:
        """The picture with its classes at 50 %; with `legend` on a sheet that names them with their share."""
        image = as_picture(image)
        if legend:
            return overlay_with_legend(image, prediction.label, self.colors)
        return Image.fromarray(class_overlay(image, prediction.label, self.colors))

    def uncertainty(
        self, image: Image.Image | np.ndarray, prediction: Segmentation, maximum: float | None = None
    ) -> Image.Image:
        """The uncertainty as a heat map over the darkened picture, with a colour bar in nats.

        Args:
            maximum: where the colours end, so that pictures compare; None: the picture's own maximum.
        """
        return uncertainty_picture(as_picture(image), prediction.uncertainty, maximum)

    def _pixels(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The picture resized as for the evaluation: (1, height, width, 3) uint8 on the device."""
        return resize_whole(np.array(image), size)[None].to(self.device)


def load_segmenter(
    snapshot: str | Path,
    device: str | torch.device | None = None,
    input_size: tuple[int, int] | None = None,
) -> Segmenter:
    """The network of a snapshot, as the `opts.yaml` beside it says; both are read without executing anything.

    The data that it was trained with need not be here.

    Args:
        snapshot: the file, of this or of the published code.
        device: to compute on; None: a GPU where there is one.
        input_size: (height, width) that every picture is resized to; None: the size that the target's images
            had in training, with the exception of `MAX_STRETCH`.

    Raises:
        UserError: the file, or what lies beside it, cannot be used.
    """
    args = Namespace(restore_from=str(snapshot))
    path = find_snapshot(args)
    options = snapshot_options(path)
    args.num_classes = options["num_classes"]
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


def as_picture(image: Image.Image | np.ndarray) -> Image.Image:
    """What callers pass for a picture, as RGB.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"an array {image.shape} of {image.dtype}; a picture is (H, W, 3) of uint8, RGB")
        return Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise TypeError(f"a picture is a PIL image or a numpy array, not {type(image).__name__}")
    if image.mode in HIGH_DEPTH_MODES:
        raise ValueError(f"a PIL image of mode {image.mode} has more than 8 bits; convert it to 8-bit RGB")
    return image.convert("RGB")


def _within(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """(height, width), reduced in its proportions to at most so many pixels."""
    if size[0] * size[1] <= pixels:
        return size
    factor = math.sqrt(pixels / (size[0] * size[1]))
    return tuple(max(1, int(factor * side)) for side in size)
