"""A procedural two-domain street data set, so that the demo needs no download.

One scene model (`Street`: labelled polygons in metres) feeds one renderer (`Renderer`) that is driven by the
parameters of a domain. `GAME`, a sunny and saturated computer game, plays GTA5; `CAMERA`, an overcast and
noisy real camera behind a bonnet, plays Cityscapes. Both show the same classes in the same shapes; colors,
texture, light, lens and sensor differ, and `DOMAIN_GAP` says by how much.

World coordinates are metres: x to the right, y up, z forward; the camera stands at z = 0.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.embedded.domains import GAME, target_domain
from dataset.embedded.ids import OUT_OF_ROI
from dataset.embedded.rendering import Renderer
from dataset.embedded.street import Street
from dataset.labels import CITYSCAPES_COLORS, CITYSCAPES_IDS

DOMAIN_GAP = 0.8
"""How far the target is from GAME: 0 = rendered with GAME's parameters, 1 = with CAMERA's, linear between.

A small network trained on GAME alone keeps about 55 % of its mIoU at 1, and 70 % at 0.8.
"""

GAME_SIZE = (320, 180)  # width, height in pixels
CAMERA_SIZE = (320, 160)
CITIES = {"train": ("eastport", "millbrook", "northhaven"), "val": ("lakeside", "oldbridge")}
PNG_COMPRESSION = 1  # noisy images hardly shrink further, and are written several times faster

GTA5_TRAIN, CITYSCAPES_TRAIN, CITYSCAPES_VAL = range(3)  # part of an image's seed


def make_image(seed: int, split: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(height, width, 3) image and (height, width) label ids, uint8, the same for the same arguments."""
    rng = np.random.default_rng((seed, split, index))
    domain, size = (GAME, GAME_SIZE) if split == GTA5_TRAIN else (target_domain(DOMAIN_GAP), CAMERA_SIZE)
    image, labels = Renderer(domain, size, rng).render(Street(domain, rng))
    if split != GTA5_TRAIN:  # rectification leaves a margin without labels
        labels = np.pad(labels[1:-1, 1:-1], 1, constant_values=OUT_OF_ROI)
    return image, labels


def image_paths(root: Path, split: int, index: int) -> tuple[Path, Path]:
    """Where the data set's real counterpart has image and labels."""
    if split == GTA5_TRAIN:
        name = f"{index + 1:05d}.png"
        return root / "GTA5" / "images" / name, root / "GTA5" / "labels" / name
    part = "train" if split == CITYSCAPES_TRAIN else "val"
    number, choice = divmod(index, len(CITIES[part]))
    city, data = CITIES[part][choice], root / "Cityscapes" / "data"
    stem = f"{city}_{number:06d}_000019"
    labels = data / "gtFine" / part / city / f"{stem}_gtFine_labelIds.png"
    return data / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", labels


def label_palette() -> list[int]:
    """256 RGB triples: the Cityscapes color of each label id, black for the others."""
    palette, colors = np.zeros((256, 3), dtype=int), list(CITYSCAPES_COLORS.values())
    for label, train_id in CITYSCAPES_IDS.items():
        palette[label] = colors[train_id]
    return palette.ravel().tolist()


def write_image(root: Path, seed: int, job: tuple[int, int]) -> None:
    """Writes image and labels of job = (split, index)."""
    image, labels = (Image.fromarray(array) for array in make_image(seed, *job))
    if job[0] == GTA5_TRAIN:
        labels.putpalette(label_palette())
    for picture, path in zip((image, labels), image_paths(root, *job), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, compress_level=PNG_COMPRESSION)


def make_embedded_data(
    root: Path,
    *,
    source_images: int = 240,
    target_images: int = 240,
    val_images: int = 60,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Writes the data set in the layouts of GTA5 (`root/GTA5`) and Cityscapes (`root/Cityscapes/data`).

    source_images go to GTA5, target_images and val_images to the two splits of Cityscapes. The files depend
    on the seed alone, not on workers: the number of processes, None for one a CPU, 1 for the caller's own.
    """
    counts = {GTA5_TRAIN: source_images, CITYSCAPES_TRAIN: target_images, CITYSCAPES_VAL: val_images}
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    write = partial(write_image, Path(root), seed)
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        for job in jobs:
            write(job)
        return
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(write, jobs, chunksize=8):  # passes on a worker's error
            pass
