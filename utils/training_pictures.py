"""What a training sees and says, as one picture: how one looks in on it without reading numbers."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.losses import fuse
from utils.pictures import HEAT_TABLE, heat_levels, overview
from utils.preprocess import to_pixels
from utils.uncertainty import classifier_divergence

TITLES = ["labelled image", "its label", "prediction"]
TITLES += ["target image", "auxiliary", "primary", "uncertainty"]
WIDTH = 320  # pixels of each picture


@torch.no_grad()
def training_pictures(
    images: Tensor,
    images_t: Tensor,
    labels: Tensor,
    predictions: tuple[Tensor, Tensor, Tensor, Tensor],
    palette: np.ndarray,
    count: int,
) -> Image.Image:
    """A row for each of the first `count` images of a step's two batches.

    Args:
        images, images_t: (N, 3, H, W), BGR minus mean.
        labels: (N, H, W) train ids, true or pseudo labels.
        predictions: logits (N, C, H, W) of both classifiers on both batches: z1, z2, z1_t, z2_t.
        palette: colours of the train ids, (256, 3) uint8.
    """
    z1, z2, z1_t, z2_t = (z[:count] for z in predictions)

    def colored(ids: Tensor) -> np.ndarray:
        return palette[ids.clamp(0, 255).cpu().numpy()]

    heat = [HEAT_TABLE[heat_levels(d).cpu().numpy()] for d in classifier_divergence(z1_t, z2_t)]
    columns = [
        to_pixels(images[:count]).cpu().numpy(),
        colored(labels[:count]),
        colored(fuse(z1, z2).argmax(1)),
    ]
    columns += [
        to_pixels(images_t[:count]).cpu().numpy(),
        colored(z1_t.argmax(1)),
        colored(z2_t.argmax(1)),
        heat,
    ]
    rows = zip(*columns, strict=True)
    return overview(TITLES, [[Image.fromarray(picture) for picture in row] for row in rows], WIDTH)
