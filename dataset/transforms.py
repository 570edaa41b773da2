"""From an image and its label ids to a training sample, and to the input sizes of a prediction.

All sizes are (height, width). Images are PIL RGB until they become uint8 arrays (H, W, 3).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dataset.images import Picture
from dataset.labels import IGNORE, LabelTable

MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)  # subtracted later, on the device
PADDING_RGB = tuple(round(c) for c in MEAN_RGB)
SCALES = (0.8, 1.2)  # range of the random scale in the labelled stream
MIRROR_PROBABILITY = 0.5
CROP_REDRAWS = 10  # how often a crop with too few label values is drawn again
MIN_LABEL_VALUES = 10  # a crop must hold more distinct label values than this
BICUBIC_REACH = 2  # support of the filter, in pixels of the coarser grid

MAX_STRETCH = 1.1  # of the aspect ratio; more is worth a note

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # top, left, height, width


class Wanted(NamedTuple):
    """What a crop is to show: more than `pixels` pixels of a class."""

    train_id: int
    pixels: float


@dataclass(frozen=True)
class TrainingView:
    """How a stream draws a training sample from an image.

    Args:
        input_size: resize to it (bicubic with antialiasing; labels nearest).
        crop_size: then crop at random; smaller images are padded (image with the mean, label with 255).
        random_scale: multiply both sides of `input_size` by one factor from `scales`.
        random_mirror: mirror with probability 0.5.
        min_label_values: redraw the crop, up to 10 times, until it holds more label values; None: never.
        autoaugment: apply ImageNet AutoAugment to the cropped image.
        ignore_label: the value of padded label pixels.
        scales: range of the factor.
        mined: with probability `mine_chance` centre the crop on a pixel of one of these classes, if there is
            any (CBST): first a class that occurs is drawn, then one of its pixels.
    """

    input_size: Size
    crop_size: Size
    random_scale: bool = False
    random_mirror: bool = False
    min_label_values: int | None = None
    autoaugment: bool = False
    ignore_label: int = IGNORE
    scales: tuple[float, float] = SCALES
    mined: tuple[int, ...] = ()
    mine_chance: float = 0.0

    def apply(
        self,
        picture: Picture,
        ids: np.ndarray | None,
        table: LabelTable,
        rng: np.random.Generator,
        planes: np.ndarray | None = None,
        wanted: Wanted | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Draw one sample: image (H, W, 3) uint8, train ids (H, W) uint8 and soft labels, of the crop size.

        `ids` holds the label ids (H, W) of the picture, or is None, like the sample's label then. The crop is
        chosen by the labels; only the part of the picture in it is decoded and resized. `planes` (C, H, W)
        uint8 become soft labels (H, W, C) float32, which add up to 1 or are 0 where the label is ignored.
        With `wanted` a crop is drawn again until it shows that, instead of `min_label_values`.

        Raises:
            UnknownIds: the crop holds an id that is not in `table`.
        """
        factor = rng.uniform(*self.scales) if self.random_scale else 1.0
        scaled = tuple(max(1, round(factor * side)) for side in self.input_size)
        box, ids = self._draw_crop(scaled, ids, table, rng, wanted)
        image = resize_box(picture, scaled, box)
        if self.autoaugment:
            image = np.array(autoaugment(Image.fromarray(image), rng))
        pixels = pad(image, self.crop_size, PADDING_RGB)
        label = None if ids is None else pad(table.train_ids.take(ids), self.crop_size, self.ignore_label)
        soft = None
        if planes is not None:
            soft = pad(soft_box(planes, scaled, box), self.crop_size, 0)
            soft[label == self.ignore_label] = 0
        if self.random_mirror and rng.random() < MIRROR_PROBABILITY:
            pixels, label, soft = (None if m is None else mirror(m) for m in (pixels, label, soft))
        return pixels, label, soft

    def _draw_crop(
        self,
        scaled: Size,
        ids: np.ndarray | None,
        table: LabelTable,
        rng: np.random.Generator,
        wanted: Wanted | None = None,
    ) -> tuple[Box, np.ndarray | None]:
        """A crop of the scaled image, and its label ids."""
        searches = ids is not None and (wanted is not None or self.min_label_values is not None)
        redraws = CROP_REDRAWS if searches else 0
        height, width = (min(c, s) for c, s in zip(self.crop_size, scaled, strict=True))
        padding = () if (height, width) == self.crop_size else (self.ignore_label,)
        if pixel := self._mined_pixel(scaled, ids, table, rng):
            box = (*offset_around(pixel, (height, width), scaled), height, width)
            return box, nearest_box(ids, scaled, box)
        for _ in range(1 + redraws):
            top = int(rng.integers(scaled[0] - height + 1))
            left = int(rng.integers(scaled[1] - width + 1))
            box = (top, left, height, width)
            if ids is None:
                return box, None
            kept = nearest_box(ids, scaled, box)
            values = {*table.train_ids[table.present(kept)].tolist(), *padding}
            if wanted:
                found, enough = np.count_nonzero(table.train_ids.take(kept) == wanted.train_id), wanted.pixels
            else:
                found, enough = len(values), self.min_label_values
            if redraws and found > enough:
                break
        return box, kept

    def _mined_pixel(
        self, scaled: Size, ids: np.ndarray | None, table: LabelTable, rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """(row, column) of the pixel of a mined class to crop around; None: crop anywhere."""
        if ids is None or not (self.mined and self.mine_chance) or rng.random() >= self.mine_chance:
            return None
        label = table.train_ids.take(nearest_box(ids, scaled, (0, 0, *scaled))).ravel()
        occurring = np.bincount(label, minlength=IGNORE + 1)
        mined = [index for index in self.mined if occurring[index]]
        if not mined:
            return None
        pixels = np.flatnonzero(label == mined[rng.integers(len(mined))])
        return divmod(int(pixels[rng.integers(len(pixels))]), scaled[1])


def offset_around(pixel: tuple[int, int], crop: Size, image: Size) -> tuple[int, int]:
    """(top, left) of the crop that has `pixel` (row, column) in its centre, moved inside the image."""
    return tuple(
        min(max(place - side // 2, 0), whole - side)
        for place, side, whole in zip(pixel, crop, image, strict=True)
    )


def stretched(sizes: Mapping[tuple[int, int], int], working_size: Size) -> str | None:
    """A line if resizing to `working_size` squeezes images, with a size that keeps their shape; else None.

    Args:
        sizes: (width, height) -> number of images.
    """
    height, width = working_size
    ratios: Counter[float] = Counter()
    for (image_width, image_height), images in sizes.items():
        ratio = image_width / image_height
        if max(ratio * height / width, width / (ratio * height)) > MAX_STRETCH:
            ratios[ratio] += images
    if not ratios:
        return None
    ratio, fitting = ratios.most_common(1)[0]
    return (
        f"{sum(ratios.values())} of {sum(sizes.values())} images are stretched to {width},{height}; "
        f"{8 * max(1, round(height * ratio / 8))},{height} keeps the shape of {fitting}"
    )


def resize_box(picture: Picture, size: Size, box: Box) -> np.ndarray:
    """A box of the picture resized to `size`, (H, W, 3) uint8, without resizing the rest.

    The part of the picture that is cut out includes the filter's margin, so the pixels are those of resizing
    the whole picture with Pillow and cropping the box.
    """
    if picture.size == (2 * size[1], 2 * size[0]):
        return _halve_box(picture, size, box)
    (left, right), columns = _reach(box[1], box[3], size[1], picture.size[0])
    (top, bottom), rows = _reach(box[0], box[2], size[0], picture.size[1])
    part = picture.crop((left, top, right, bottom))
    source = (columns[0] - left, rows[0] - top, columns[1] - left, rows[1] - top)
    return np.array(part.resize((box[3], box[2]), Image.Resampling.BICUBIC, box=source))


def _halve_box(picture: Picture, size: Size, box: Box) -> np.ndarray:
    """`resize_box` to half the picture's size, several times as fast.

    The filter's weights are then multiples of 1/256, which torch's 16-bit weights hold exactly. Only at the
    picture's border, where the filter is cut off, they are not, and Pillow computes those pixels.
    """
    edge = BICUBIC_REACH
    top, left = max(0, box[0] - edge), max(0, box[1] - edge)
    bottom, right = min(size[0], box[0] + box[2] + edge), min(size[1], box[1] + box[3] + edge)
    pixels = picture.pixels((2 * left, 2 * top, 2 * right, 2 * bottom))
    half = resize_whole(pixels, (bottom - top, right - left)).numpy()
    for read, kept in (np.s_[: 4 * edge], np.s_[:edge]), (np.s_[-4 * edge :], np.s_[-edge:]):
        half[kept] = _halve_by_pillow(pixels[read])[kept]
        half[:, kept] = _halve_by_pillow(pixels[:, read])[:, kept]
    return half[box[0] - top :, box[1] - left :][: box[2], : box[3]]


def _halve_by_pillow(pixels: np.ndarray) -> np.ndarray:
    """(2H, 2W, 3) uint8 -> (H, W, 3), along the rows first: some versions choose the order by the shape."""
    image = Image.fromarray(pixels)
    for size in (image.width // 2, image.height), (image.width // 2, image.height // 2):
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.array(image)


def resize_whole(pixels: np.ndarray, size: Size) -> Tensor:
    """(H, W, 3) uint8 resized to `size`, several times as fast as Pillow does it.

    torch's filter is Pillow's with 16-bit weights: about 1 value in 300 differs by one grey level, 1 in 2
    million by two.
    """
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    return F.interpolate(image, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)


def _reach(start: int, length: int, side: int, whole: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """Along one side: the range of pixels that the filter reads, and the range that the box covers."""
    step = whole / side
    first, last = start * step, min((start + length) * step, whole)
    margin = BICUBIC_REACH * max(1, step) + 1
    return (max(0, floor(first - margin)), min(whole, ceil(last + margin))), (first, last)


def nearest_box(label: np.ndarray, size: Size, box: Box) -> np.ndarray:
    """A box of label ids (H, W) resized to `size` by nearest neighbour."""
    top, left, height, width = box
    rows = ((np.arange(top, top + height) + 0.5) * (label.shape[0] / size[0])).astype(np.intp)
    columns = ((np.arange(left, left + width) + 0.5) * (label.shape[1] / size[1])).astype(np.intp)
    return label[rows][:, columns]  # several times as fast as indexing both at once


def soft_box(planes: np.ndarray, size: Size, box: Box) -> np.ndarray:
    """A box of soft labels (C, H, W) uint8 resized to `size` bilinearly: (h, w, C) float32, sums of 1."""
    top, left, height, width = box
    rows = _neighbours(top, height, size[0], planes.shape[1])
    columns = _neighbours(left, width, size[1], planes.shape[2])
    (above, below, down), (before, after, right) = rows, columns
    wide = planes[:, above] * (1 - down[:, None]) + planes[:, below] * down[:, None]
    soft = (wide[..., before] * (1 - right) + wide[..., after] * right).transpose(1, 2, 0)
    return soft / np.maximum(soft.sum(2, keepdims=True), np.finfo(np.float32).tiny)


def _neighbours(start: int, length: int, side: int, whole: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one side: the two pixels that each pixel of the box lies between, and the share of the second."""
    place = ((np.arange(start, start + length) + 0.5) * (whole / side) - 0.5).clip(0, whole - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, whole - 1), (place - first).astype(np.float32)


def pad(pixels: np.ndarray, size: Size, value) -> np.ndarray:
    """Extend (H, W) or (H, W, 3) at the bottom and the right to at least `size`."""
    height, width = (max(a, b) for a, b in zip(pixels.shape, size, strict=False))
    if (height, width) == pixels.shape[:2]:
        return pixels
    padded = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
    padded[:] = value
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def mirror(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) with left and right exchanged; torch copies 8 times as fast as NumPy."""
    return torch.from_numpy(pixels).flip(1).numpy()


def autoaugment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """torchvision's ImageNet AutoAugment, drawn from `rng` instead of torch's global generator."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy  # takes 1.3 s, and few need it

    with torch_draws(rng):
        return AutoAugment(AutoAugmentPolicy.IMAGENET)(image)


@contextmanager
def torch_draws(rng: np.random.Generator) -> Iterator[None]:
    """Within, torch's random numbers on the CPU follow from `rng`."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs' generators too.
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        yield
