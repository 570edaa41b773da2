"""File layouts and label formats of the published data sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import png
from PIL import Image

from synthetic.ids import COLORS, ROBOTCAR_IDS, SYNTHIA_IDS

SOURCE, TARGET, VAL = range(3)  # splits of a benchmark; part of each image's seed

GAME_SIZE = (320, 180)  # width, height in pixels
CITYSCAPES_SIZE = (320, 160)
ROBOTCAR_SIZE = (240, 180)

CITIES = {"train": ("eastport", "millbrook", "northhaven"), "val": ("lakeside", "oldbridge")}
ROBOTCAR_SEQUENCES = {  # drive -> time of its first frame in microseconds since 1970; files are named by time
    "2014-05-06-12-54-54": 1399381512466346,
    "2014-11-14-16-34-33": 1415983018102911,
    "2015-08-28-09-50-22": 1440755712530287,
}
ROBOTCAR_VAL_START = 1447410515926428
ROBOTCAR_FRAME_TIME = 62_500  # microseconds between frames

PNG_COMPRESSION = 1  # higher levels hardly shrink noisy images and are several times slower
INSTANCE_SIDE = 8  # pixels; each square of this side is one instance


def label_palette() -> list[int]:
    """256 RGB triples: the Cityscapes color of each label id, black for the others."""
    palette = np.zeros((256, 3), dtype=int)
    palette[list(COLORS)] = list(COLORS.values())
    return palette.ravel().tolist()


def convert(labels: np.ndarray, ids: dict[int, int]) -> np.ndarray:
    """Cityscapes label ids (height, width) -> a data set's own ids, uint8."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(ids)] = list(ids.values())
    return table[labels]


def instance_numbers(height: int, width: int) -> np.ndarray:
    """Instance numbers (height, width) of square blocks, from 0 to several hundred."""
    row, column = np.arange(height)[:, None] // INSTANCE_SIDE, np.arange(width) // INSTANCE_SIDE
    return row * (column[-1] + 1) + column


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """8-bit PNG: RGB from (height, width, 3), grey from (height, width)."""
    Image.fromarray(pixels).save(path, compress_level=PNG_COMPRESSION)


def write_gta5_labels(path: Path, labels: np.ndarray) -> None:
    """Label ids with a color palette."""
    picture = Image.fromarray(labels)
    picture.putpalette(label_palette())
    picture.save(path, compress_level=PNG_COMPRESSION)


def write_synthia_labels(path: Path, labels: np.ndarray) -> None:
    """16-bit RGB, which Pillow cannot write: class id in red, instance number in green."""
    height, width = labels.shape
    ids = convert(labels, SYNTHIA_IDS)
    pixels = np.stack([ids, instance_numbers(height, width), np.zeros_like(ids)], axis=-1)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)  # big-endian, as in the file
    writer = png.Writer(width, height, greyscale=False, bitdepth=16, compression=PNG_COMPRESSION)
    with path.open("wb") as file:
        writer.write_packed(file, rows)


def write_robotcar_labels(path: Path, labels: np.ndarray) -> None:
    """8-bit RGB: class id in the first channel; readers must ignore the others."""
    ids = convert(labels, ROBOTCAR_IDS)
    instances = (instance_numbers(*labels.shape) % 256).astype(np.uint8)
    write_picture(path, np.stack([ids, instances, 255 - ids], axis=-1))


def gta5_files(index: int) -> tuple[str, str]:
    """Paths of image and labels relative to the root; likewise for the functions below."""
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
    """Published layout of one split of a data set."""

    size: tuple[int, int]  # width, height of its images in pixels
    files: Callable[[int], tuple[str, str | None]]  # index -> paths of image and labels (None: unlabelled)
    write_labels: Callable[[Path, np.ndarray], None]  # path, Cityscapes label ids (height, width)

    def write(self, root: Path, index: int, image: np.ndarray, labels: np.ndarray) -> None:
        """Write image (height, width, 3) and Cityscapes ids (height, width), both uint8, below `root`."""
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
