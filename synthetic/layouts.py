"""File layouts and label formats of the published data sets."""

from functools import partial
from pathlib import Path

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


def save(path: Path, picture: np.ndarray | Image.Image) -> None:
    """Write an 8-bit PNG and its folder; an array is RGB (height, width, 3) or grey (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(path, compress_level=PNG_COMPRESSION)


# Each writer below takes one image (height, width, 3) and its Cityscapes label ids (height, width), uint8.


def write_gta5(root: Path, index: int, image: np.ndarray, labels: np.ndarray) -> None:
    """The labels are Cityscapes label ids with a color palette."""
    picture = Image.fromarray(labels)
    picture.putpalette(label_palette())
    save(root / f"GTA5/images/{index + 1:05d}.png", image)
    save(root / f"GTA5/labels/{index + 1:05d}.png", picture)


def write_synthia(root: Path, index: int, image: np.ndarray, labels: np.ndarray) -> None:
    """The labels are 16-bit RGB, which Pillow cannot write: class id in red, instance number in green."""
    height, width = labels.shape
    ids = convert(labels, SYNTHIA_IDS)
    pixels = np.stack([ids, instance_numbers(height, width), np.zeros_like(ids)], axis=-1)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)  # big-endian, as in the file
    writer = png.Writer(width, height, greyscale=False, bitdepth=16, compression=PNG_COMPRESSION)
    save(root / f"synthia/RGB/{index:07d}.png", image)
    path = root / f"synthia/GT/LABELS/{index:07d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer.write_packed(file, rows)


def write_cityscapes(root: Path, index: int, image: np.ndarray, labels: np.ndarray, part: str) -> None:
    """The labels are the label ids themselves, in grey; `part` is train or val."""
    number, choice = divmod(index, len(CITIES[part]))
    city, data = CITIES[part][choice], root / "Cityscapes/data"
    stem = f"{part}/{city}/{city}_{number:06d}_000019"
    save(data / f"leftImg8bit/{stem}_leftImg8bit.png", image)
    save(data / f"gtFine/{stem}_gtFine_labelIds.png", labels)


def write_robotcar_train(root: Path, index: int, image: np.ndarray, labels: np.ndarray) -> None:
    """The labels are not written."""
    number, choice = divmod(index, len(ROBOTCAR_SEQUENCES))
    sequence, start = list(ROBOTCAR_SEQUENCES.items())[choice]
    save(root / f"Oxford_Robot_ICCV19/train/{sequence}/{start + number * ROBOTCAR_FRAME_TIME}.png", image)


def write_robotcar_val(root: Path, index: int, image: np.ndarray, labels: np.ndarray) -> None:
    """The labels are 8-bit RGB: class id in the first channel; readers must ignore the others."""
    ids = convert(labels, ROBOTCAR_IDS)
    instances = (instance_numbers(*labels.shape) % 256).astype(np.uint8)
    folder, time = root / "Oxford_Robot_ICCV19", ROBOTCAR_VAL_START + index * ROBOTCAR_FRAME_TIME
    save(folder / f"val/{time}.png", image)
    save(folder / f"anno/{time}.png", np.stack([ids, instances, 255 - ids], axis=-1))


write_cityscapes_train = partial(write_cityscapes, part="train")
write_cityscapes_val = partial(write_cityscapes, part="val")
CITYSCAPES = ((CITYSCAPES_SIZE, write_cityscapes_train), (CITYSCAPES_SIZE, write_cityscapes_val))
ROBOTCAR = ((ROBOTCAR_SIZE, write_robotcar_train), (ROBOTCAR_SIZE, write_robotcar_val))

BENCHMARKS = {  # size of the images and writer for SOURCE, TARGET and VAL
    "gta5": ((GAME_SIZE, write_gta5), *CITYSCAPES),
    "synthia": ((GAME_SIZE, write_synthia), *CITYSCAPES),
    "robotcar": ((GAME_SIZE, write_cityscapes_train), *ROBOTCAR),
}
