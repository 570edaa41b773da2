"""Where the benchmarks' data sets keep their files, and how their label files are written.

A street is labelled with Cityscapes ids. The tables below lead from these to the other sets' ids and are
stated apart from those in dataset/labels.py, which lead back: a wrong entry in either shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataset.labels import CITYSCAPES_COLORS, CITYSCAPES_IDS
from synthetic.ids import (
    BICYCLE,
    BUILDING,
    BUS,
    CAR,
    FENCE,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    POLE,
    RIDER,
    ROAD,
    SIDEWALK,
    SIGN,
    SKY,
    TERRAIN,
    TRAIN,
    TRUCK,
    VEGETATION,
    WALL,
)

SOURCE, TARGET, VAL = range(3)  # the splits of a benchmark; part of an image's seed

GAME_SIZE = (320, 180)  # width, height in pixels
CITYSCAPES_SIZE = (320, 160)
ROBOTCAR_SIZE = (240, 180)

CITIES = {"train": ("eastport", "millbrook", "northhaven"), "val": ("lakeside", "oldbridge")}
ROBOTCAR_SEQUENCES = {  # drive -> time of its first frame, microseconds since 1970: the names of the files
    "2014-05-06-12-54-54": 1399381512466346,
    "2014-11-14-16-34-33": 1415983018102911,
    "2015-08-28-09-50-22": 1440755712530287,
}
ROBOTCAR_VAL_START = 1447410515926428
ROBOTCAR_FRAME_TIME = 62_500  # microseconds

PNG_COMPRESSION = 1  # noisy images hardly shrink further, and are written several times faster
INSTANCE_SIDE = 8  # pixels of a square that counts as one instance

# Cityscapes label id -> the set's own id; every other label becomes 0 in both.
# fmt: off
SYNTHIA_IDS = {
    SKY: 1, BUILDING: 2, ROAD: 3, SIDEWALK: 4, FENCE: 5, VEGETATION: 6, POLE: 7, CAR: 8, SIGN: 9, PERSON: 10,
    BICYCLE: 11, MOTORCYCLE: 12, LIGHT: 15, TERRAIN: 16, RIDER: 17, TRUCK: 18, BUS: 19, TRAIN: 20, WALL: 21,
}
ROBOTCAR_IDS = {
    SKY: 1, PERSON: 2, RIDER: 2, MOTORCYCLE: 3, BICYCLE: 3, CAR: 4, TRUCK: 4, BUS: 4, SIGN: 5, LIGHT: 6,
    BUILDING: 7, SIDEWALK: 10, ROAD: 11,
}
# fmt: on


def label_palette() -> list[int]:
    """256 RGB triples: the Cityscapes color of each label id, black for the others."""
    palette, colors = np.zeros((256, 3), dtype=int), list(CITYSCAPES_COLORS.values())
    for label, train_id in CITYSCAPES_IDS.items():
        palette[label] = colors[train_id]
    return palette.ravel().tolist()


def converted(labels: np.ndarray, ids: dict[int, int]) -> np.ndarray:
    """(height, width) Cityscapes label ids -> a set's own ids, uint8."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(ids)] = list(ids.values())
    return table[labels]


def instance_numbers(height: int, width: int) -> np.ndarray:
    """(height, width) numbers from 0 to several hundreds, in squares: what label files hold besides ids."""
    row, column = np.arange(height)[:, None] // INSTANCE_SIDE, np.arange(width) // INSTANCE_SIDE
    return row * (column[-1] + 1) + column


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """8 bits: RGB from (height, width, 3), grey from (height, width)."""
    Image.fromarray(pixels).save(path, compress_level=PNG_COMPRESSION)


def write_gta5_labels(path: Path, labels: np.ndarray) -> None:
    """Label ids, shown in colors by a palette."""
    picture = Image.fromarray(labels)
    picture.putpalette(label_palette())
    picture.save(path, compress_level=PNG_COMPRESSION)


def write_synthia_labels(path: Path, labels: np.ndarray) -> None:
    """16-bit RGB, which Pillow cannot write: class id in red, number of the instance in green."""
    import png  # here, as nothing but this needs pypng

    height, width = labels.shape
    ids = converted(labels, SYNTHIA_IDS)
    pixels = np.stack([ids, instance_numbers(height, width), np.zeros_like(ids)], axis=-1)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)  # as they lie in the file
    writer = png.Writer(width, height, greyscale=False, bitdepth=16, compression=PNG_COMPRESSION)
    with path.open("wb") as file:
        writer.write_packed(file, rows)


def write_robotcar_labels(path: Path, labels: np.ndarray) -> None:
    """8-bit RGB: annotation id in the first channel, what a reader has to leave alone in the others."""
    ids = converted(labels, ROBOTCAR_IDS)
    instances = (instance_numbers(*labels.shape) % 256).astype(np.uint8)
    write_picture(path, np.stack([ids, instances, 255 - ids], axis=-1))


def gta5_files(index: int) -> tuple[str, str]:
    """Names of image and labels below the root; so do the functions that follow."""
    name = f"{index + 1:05d}.png"
    return f"GTA5/images/{name}", f"GTA5/labels/{name}"


def synthia_files(index: int) -> tuple[str, str]:
    name = f"{index:07d}.png"
    return f"synthia/RGB/{name}", f"synthia/GT/LABELS/{name}"


def cityscapes_files(index: int, part: str) -> tuple[str, str]:
    number, choice = divmod(index, len(CITIES[part]))
    city, data = CITIES[part][choice], "Cityscapes/data"
    stem = f"{part}/{city}/{city}_{number:06d}_000019"
    return f"{data}/leftImg8bit/{stem}_leftImg8bit.png", f"{data}/gtFine/{stem}_gtFine_labelIds.png"


def robotcar_train_files(index: int) -> tuple[str, None]:
    number, choice = divmod(index, len(ROBOTCAR_SEQUENCES))
    sequence, start = list(ROBOTCAR_SEQUENCES.items())[choice]
    return f"Oxford_Robot_ICCV19/train/{sequence}/{start + number * ROBOTCAR_FRAME_TIME}.png", None


def robotcar_val_files(index: int) -> tuple[str, str]:
    name = f"{ROBOTCAR_VAL_START + index * ROBOTCAR_FRAME_TIME}.png"
    return f"Oxford_Robot_ICCV19/val/{name}", f"Oxford_Robot_ICCV19/anno/{name}"


class Layout(NamedTuple):
    """One split of a data set as its publishers lay it out."""

    size: tuple[int, int]  # width, height of its images in pixels
    files: Callable[[int], tuple[str, str | None]]  # index -> names of image and labels; None: has no labels
    write_labels: Callable[[Path, np.ndarray], None]  # path, (height, width) Cityscapes label ids

    def write(self, root: Path, index: int, image: np.ndarray, labels: np.ndarray) -> None:
        """Writes (height, width, 3) image and (height, width) Cityscapes label ids, uint8, below root."""
        for name, write, pixels in zip(
            self.files(index), (write_picture, self.write_labels), (image, labels), strict=True
        ):
            if name is not None:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, pixels)


GTA5 = Layout(GAME_SIZE, gta5_files, write_gta5_labels)
SYNTHIA = Layout(GAME_SIZE, synthia_files, write_synthia_labels)
CITYSCAPES_TRAIN, CITYSCAPES_VAL = (
    Layout(CITYSCAPES_SIZE, partial(cityscapes_files, part=part), write_picture) for part in ("train", "val")
)
ROBOTCAR_TRAIN = Layout(ROBOTCAR_SIZE, robotcar_train_files, write_robotcar_labels)
ROBOTCAR_VAL = Layout(ROBOTCAR_SIZE, robotcar_val_files, write_robotcar_labels)

BENCHMARKS = {  # layouts of SOURCE, TARGET, VAL
    "gta5": (GTA5, CITYSCAPES_TRAIN, CITYSCAPES_VAL),
    "synthia": (SYNTHIA, CITYSCAPES_TRAIN, CITYSCAPES_VAL),
    "robotcar": (CITYSCAPES_TRAIN._replace(size=GAME_SIZE), ROBOTCAR_TRAIN, ROBOTCAR_VAL),
}
