"""Two overlapping views of each image of a data set, for contrasts between them (PiPa, arXiv 2211.07609)."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dataset.base import SegmentationDataset
from dataset.images import Picture
from dataset.transforms import MIRROR_PROBABILITY, Size, mirror, resize_box, torch_draws

SCALES = (0.8, 2.0)  # of the whole image
GRID = 8  # pixels between the network's cells; crops that are multiples of it apart share cells
MIN_IOU = 0.1  # of two crops
TRIES = 50  # to find such a pair; then both crops are the same
KERNEL, BLUR_PROBABILITY = 5, 0.5
JITTER, JITTER_PROBABILITY = (0.4, 0.4, 0.4, 0.1), 0.8  # brightness, contrast, saturation, hue
GREY_PROBABILITY = 0.2


class PairDataset(Dataset):
    """Samples of two views, each cropped, mirrored, blurred and recoloured on its own.

    Samples: dict of `image` (2, H, W, 3) uint8 RGB; `corners` (2, 2, 2) int64, (top, left) and (bottom,
    right) of the overlap in each view before mirroring, in pixels, multiples of 8; `mirrored` (2,) bool.

    Args:
        images: where the images come from.
        input_size: of the whole images, at scale 1.
        patch_size: of the views, multiples of 8, at most 0.8 times `input_size`.
    """

    def __init__(self, images: SegmentationDataset, input_size: Size, patch_size: Size):
        self.images, self.input_size, self.patch_size = images, input_size, patch_size
        self.names = images.names

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        """The pair of image `index` that `rng` draws."""
        picture = Picture(self.images.image_path(str(self.names[index])))
        factor = rng.uniform(*SCALES)
        scaled = tuple(round(factor * side) for side in self.input_size)
        offsets = draw_offsets(scaled, self.patch_size, rng)
        overlap = np.maximum(*offsets), np.minimum(*offsets) + self.patch_size
        mirrored = rng.random(2) < MIRROR_PROBABILITY
        views = []
        for offset, flip in zip(offsets, mirrored, strict=True):
            view = recolour(resize_box(picture, scaled, (*offset.tolist(), *self.patch_size)), rng)
            views.append(torch.from_numpy(mirror(view) if flip else view))
        corners = np.stack([np.stack(overlap) - offset for offset in offsets])
        return {
            "image": torch.stack(views),
            "corners": torch.from_numpy(corners),
            "mirrored": torch.from_numpy(mirrored),
        }


def draw_offsets(scaled: Size, patch: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(top, left) of two crops of an image, multiples of 8 apart, whose IoU is at least 0.1."""
    room = np.subtract(scaled, patch)
    first = rng.integers(room + 1)
    for _ in range(TRIES):
        below = first // GRID  # how many steps of the grid there are to the border
        second = first + GRID * rng.integers(-below, (room - first) // GRID + 1)
        shared = (patch - np.abs(first - second)).clip(0).prod()
        if shared >= MIN_IOU * (2 * np.prod(patch) - shared):
            return first, second
    return first, first


def recolour(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Perhaps blur the view (H, W, 3), change its colours and make it grey."""
    from torchvision import transforms  # takes 1.3 s, and few need it

    changes = transforms.Compose(
        [
            transforms.RandomApply([transforms.GaussianBlur(KERNEL)], BLUR_PROBABILITY),
            transforms.RandomApply([transforms.ColorJitter(*JITTER)], JITTER_PROBABILITY),
            transforms.RandomGrayscale(GREY_PROBABILITY),
        ]
    )
    with torch_draws(rng):
        return np.array(changes(Image.fromarray(view)))
