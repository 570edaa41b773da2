"""Synthetic street scenes of two domains, so that the demo and the tests need no download.

A scene (`Street`: labelled polygons in metres) is drawn by one `Renderer` in the `Style` of a domain. `GAME`,
a sunny and saturated computer game, stands in for GTA5; `CAMERA`, an overcast and noisy camera behind a
bonnet, for Cityscapes. Both show the same classes in the same shapes; colors, texture, light, lens and sensor
differ; `styles.DOMAIN_GAP` sets by how much. `BENCHMARKS` lists the file layouts that the scenes can take.

World coordinates are metres: x to the right, y up, z forward; the camera stands at z = 0.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from synthetic.ids import OUT_OF_ROI
from synthetic.layouts import BENCHMARKS, SOURCE, TARGET, VAL
from synthetic.rendering import Renderer
from synthetic.street import Street
from synthetic.styles import GAME, TARGET_STYLE


def make_image(seed: int, split: int, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image (height, width, 3) and label ids (height, width), uint8, determined by the arguments.

    `split` is SOURCE, TARGET or VAL; `size` is (width, height) in pixels.
    """
    rng = np.random.default_rng((seed, split, index))
    style = GAME if split == SOURCE else TARGET_STYLE
    image, labels = Renderer(style, size, rng).render(Street(style, rng))
    if split != SOURCE:  # the margin that rectification leaves without labels in Cityscapes
        labels = np.pad(labels[1:-1, 1:-1], 1, constant_values=OUT_OF_ROI)
    return image, labels


def write_image(root: Path, benchmark: str, seed: int, split: int, index: int) -> None:
    """Write one image and its labels."""
    size, write = BENCHMARKS[benchmark][split]
    write(root, index, *make_image(seed, split, index, size))


def make_synthetic_data(
    root: Path,
    *,
    benchmark: str = "gta5",
    source_images: int = 240,
    target_images: int = 240,
    val_images: int = 60,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write both domains in the file layouts of a published benchmark's data sets.

    benchmark   source_images go to         target_images and val_images go to
    gta5        GTA5                        Cityscapes/data, train and val
    synthia     synthia                     Cityscapes/data, train and val
    robotcar    Cityscapes/data, train      Oxford_Robot_ICCV19: train, without labels, and val with anno

    The source is always the game. The files depend only on `benchmark` and `seed`, not on `workers`, the
    number of processes (None: one per CPU).
    """
    counts = {SOURCE: source_images, TARGET: target_images, VAL: val_images}
    splits = [split for split, count in counts.items() for _ in range(count)]
    indices = [index for count in counts.values() for index in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        write = partial(write_image, Path(root), benchmark, seed)
        list(pool.map(write, splits, indices, chunksize=8))  # raises the exception of a worker
