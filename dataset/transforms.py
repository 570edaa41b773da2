"""From a decoded image and its label ids to a training sample, and to the sizes of a prediction.

All sizes are (height, width). Images are PIL RGB until they are uint8 arrays (H, W, 3).
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from dataset.labels import IGNORE, LabelTable

MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)  # subtracted on the device, see utils.preprocess
PADDING_RGB = tuple(round(c) for c in MEAN_RGB)
SCALES = (0.8, 1.2)  # of the labelled stream
MIRROR_PROBABILITY = 0.5
CROP_REDRAWS = 10  # a crop poor in labels is drawn again so often
MIN_LABEL_VALUES = 10  # a crop must hold more distinct label values than this

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class TrainingView:
    """How a stream shows its images to the training.

    Args:
        input_size: the image is resized to it (bicubic with antialiasing; labels nearest).
        crop_size: then a random crop is taken; a smaller image is padded (image with the mean, label 255).
        random_scale: both sides of `input_size` times one factor from [0.8, 1.2].
        random_mirror: mirror with probability 0.5.
        min_label_values: a crop is drawn again, up to 10 times, until it holds more values; None: never.
        autoaugment: ImageNet AutoAugment on the crop's image.
        ignore_label: the value of padded label pixels.
    """

    input_size: Size
    crop_size: Size
    random_scale: bool = False
    random_mirror: bool = False
    min_label_values: int | None = None
    autoaugment: bool = False
    ignore_label: int = IGNORE

    def apply(
        self, image: Image.Image, ids: np.ndarray | None, table: LabelTable, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw one sample: image (H, W, 3) uint8 and train ids (H, W) uint8 of the crop size.

        `ids` holds the label ids (H, W) of the image, or None (then so is the sample's label). The crop is
        chosen on the labels, and only what it keeps of the image is resized.

        Raises:
            UnknownIds: the crop holds an id that `table` does not know.
        """
        factor = rng.uniform(*SCALES) if self.random_scale else 1.0
        scaled = tuple(max(1, round(factor * side)) for side in self.input_size)
        box, label = self._draw_crop(scaled, ids, table, rng)
        pixels = np.asarray(resize_box(image, scaled, box))
        if self.autoaugment:
            pixels = autoaugment(pixels, rng)
        pixels = pad(pixels, self.crop_size, PADDING_RGB)
        if self.random_mirror and rng.random() < MIRROR_PROBABILITY:
            pixels = pixels[:, ::-1]
            label = None if label is None else label[:, ::-1]
        return pixels, label

    def _draw_crop(
        self, scaled: Size, ids: np.ndarray | None, table: LabelTable, rng: np.random.Generator
    ) -> tuple[Box, np.ndarray | None]:
        """A crop within the scaled image and its padded train ids."""
        redraws = CROP_REDRAWS if ids is not None and self.min_label_values is not None else 0
        height, width = (min(c, s) for c, s in zip(self.crop_size, scaled, strict=True))
        for _ in range(1 + redraws):
            top = int(rng.integers(scaled[0] - height + 1))
            left = int(rng.integers(scaled[1] - width + 1))
            box = (top, left, height, width)
            if ids is None:
                return box, None
            label = pad(table.read(nearest_box(ids, scaled, box)), self.crop_size, self.ignore_label)
            if redraws and np.count_nonzero(np.bincount(label.ravel())) > self.min_label_values:
                break
        return box, label


def resize_box(image: Image.Image, size: Size, box: Box) -> Image.Image:
    """What the box holds of the image resized to `size`, without the rest.

    Pillow reaches beyond the box for its filter, so the pixels are those of resizing first, cropping then.
    """
    top, left, height, width = box
    y, x = image.height / size[0], image.width / size[1]
    source = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC, box=source)


def nearest_box(label: np.ndarray, size: Size, box: Box) -> np.ndarray:
    """The same box of label ids (H, W) resized to `size` by nearest neighbour."""
    top, left, height, width = box
    rows = ((np.arange(top, top + height) + 0.5) * (label.shape[0] / size[0])).astype(np.intp)
    columns = ((np.arange(left, left + width) + 0.5) * (label.shape[1] / size[1])).astype(np.intp)
    return label[rows[:, None], columns]


def pad(pixels: np.ndarray, size: Size, value) -> np.ndarray:
    """Extend (H, W) or (H, W, 3) at the bottom and the right to at least `size`."""
    height, width = (max(a, b) for a, b in zip(pixels.shape, size, strict=False))
    if (height, width) == pixels.shape[:2]:
        return pixels
    padded = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
    padded[:] = value
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def autoaugment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """torchvision's ImageNet AutoAugment, drawn from `rng` instead of torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        return np.asarray(AutoAugment(AutoAugmentPolicy.IMAGENET)(Image.fromarray(pixels)))
