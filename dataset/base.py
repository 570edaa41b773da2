"""One base class that finds, checks and decodes images and labels; a data set adds where its files are."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dataset.labels import LabelTable, UnknownIds
from dataset.transforms import TrainingView, resize_box
from utils.errors import UserError

ID_MODES = ("L", "P", "I", "I;16")  # one number a pixel
CHECKING_THREADS = 16  # opening files waits for the disk or the network
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What Pillow and the system raise for a file that is no image, damaged, absurdly large or misnamed.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
PNG_END = b"IEND\xaeB`\x82"


class DataError(UserError):
    """An image, label or list that cannot be used; the message names the file."""


class SegmentationDataset(Dataset):
    """Images and their labels, by name.

    Indexing draws a training sample through `view`: a dict of `image` (H, W, 3) uint8 RGB, `label` (H, W)
    uint8 train ids (all `ignore_label` where the image has no label) and `name`.

    Args:
        root: folder of the data set.
        split: the part of it, where the data set has parts.
        list_file: names, one a line; None scans the folder in sorted order.
        view: how samples are drawn.
        table: how label ids read.
        colors: class name -> colour, in the order of the train ids.
    """

    image_suffix = ".png"

    def __init__(
        self,
        root: Path,
        split: str,
        list_file: Path | None,
        view: TrainingView,
        table: LabelTable,
        colors: dict[str, tuple[int, int, int]],
    ):
        self.root, self.split, self.view, self.table, self.colors = root, split, view, table, colors
        if not self.image_folder.is_dir():
            raise DataError(
                f"{self.image_folder}: no such folder of images; put the data set there or name its root"
            )
        self.names = read_list(list_file) if list_file else scan(self.image_folder, self.image_suffix)

    @property
    def image_folder(self) -> Path:
        """The folder that names are relative to."""
        raise NotImplementedError

    def label_path(self, name: str) -> Path:
        """Where the label of an image lies if it has one."""
        raise NotImplementedError

    def image_path(self, name: str) -> Path:
        """Where an image lies."""
        return self.image_folder / name

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        return self.sample(index, np.random.default_rng(int(torch.randint(2**63 - 1, ()))))

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        """The training sample of image `index` that `rng` draws."""
        name = self.names[index]
        image, ids = self.decode(name)
        try:
            pixels, label = self.view.apply(image, ids, self.table, rng)
        except UnknownIds as error:
            raise self._unknown_ids(name, error) from error
        if label is None:
            label = np.full(self.view.crop_size, self.view.ignore_label, np.uint8)
        return {
            "image": torch.from_numpy(np.array(pixels, order="C")),
            "label": torch.from_numpy(np.array(label, order="C")),
            "name": name,
        }

    def decode(self, name: str) -> tuple[Image.Image, np.ndarray | None]:
        """The RGB image and its label ids (H, W), None where there is no label file."""
        image = decode_image(self.image_path(name))
        path = self.label_path(name)
        if not path.is_file():
            return image, None
        ids = decode_ids(path)
        _check_sizes(path, ids.shape[::-1], image.size)
        return image, ids

    def train_ids(self, name: str) -> np.ndarray:
        """The whole label of an image as train ids (H, W) uint8."""
        try:
            return self.table.read(decode_ids(self.label_path(name)))
        except UnknownIds as error:
            raise self._unknown_ids(name, error) from error

    def _unknown_ids(self, name: str, error: UnknownIds) -> DataError:
        return DataError(f"{self.label_path(name)}: {error} is no label of this data set; replace the file")

    def check(self, labels_required: bool) -> bool:
        """Open every file's header before hours of work depend on it; whether any image has a label.

        Raises:
            DataError: a file is missing, cut short, no image, or a label of another size or mode.
        """
        with ThreadPoolExecutor(CHECKING_THREADS) as pool:
            return any(list(pool.map(lambda name: self._check_pair(name, labels_required), self.names)))

    def _check_pair(self, name: str, label_required: bool) -> bool:
        size, _ = read_header(self.image_path(name))
        path = self.label_path(name)
        if not path.is_file():
            if label_required:
                raise DataError(self.missing_label(path))
            return False
        label_size, mode = read_header(path)
        if mode not in ID_MODES:
            raise DataError(f"{path}: a label must hold one id a pixel, this image is of mode {mode}")
        _check_sizes(path, label_size, size)
        return True

    def missing_label(self, path: Path) -> str:
        """What to say of a label that must be there and is not."""
        return f"{path}: no such label file; complete the data set or take its image off the list"


class PredictionDataset(Dataset):
    """Every image of a data set whole, resized to each of `sizes`: what prediction runs on.

    Items: dict of `images`, a list of (H, W, 3) uint8 RGB, one a size; `label` (H, W) uint8 train ids at the
    image's own size, empty without `labels`; `size`, the image's own (height, width); `name`.
    """

    def __init__(self, dataset: SegmentationDataset, sizes: list[tuple[int, int]], labels: bool):
        self.dataset, self.sizes, self.labels = dataset, sizes, labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict | DataError:
        name = self.dataset.names[index]
        try:
            image = decode_image(self.dataset.image_path(name))
            label = self.dataset.train_ids(name) if self.labels else np.zeros((0, 0), np.uint8)
        except DataError as error:  # travels as a value: see dataset.stream
            return error
        images = [np.array(resize_box(image, size, (0, 0, *size))) for size in self.sizes]
        return {
            "images": [torch.from_numpy(pixels) for pixels in images],
            "label": torch.from_numpy(label),
            "size": (image.height, image.width),
            "name": name,
        }


def read_list(path: Path) -> list[str]:
    """The names in a list file, one a line; blank lines do not count."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read this list of names ({error})") from error
    if not names:
        raise DataError(f"{path}: the list is empty; write one image name a line")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{path}: the name {name} leaves the data folder; names are relative to it")
    return names


def scan(folder: Path, suffix: str) -> list[str]:
    """Names of the files under `folder` that end in `suffix`, relative and sorted."""

    def walk(relative: str) -> Iterator[str]:
        for entry in (folder / relative).iterdir():
            name = f"{relative}/{entry.name}" if relative else entry.name
            if entry.name.endswith(suffix):
                yield name
            elif entry.is_dir():
                yield from walk(name)

    names = sorted(walk(""))
    if not names:
        raise DataError(f"{folder}: no file here ends in {suffix}; put the images there or give a list")
    return names


def read_header(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and mode of an image file, without decoding it."""
    try:
        with Image.open(path) as image:
            header = image.size, image.mode
        with open(path, "rb") as file:
            is_png = file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
            file.seek(-len(PNG_END), 2)
            complete = not is_png or file.read() == PNG_END
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; complete the data set or take it off the list") from error
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if not complete:
        raise DataError(f"{path}: the file is cut short; copy it again")
    return header


def decode_image(path: Path) -> Image.Image:
    """An image file as RGB."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def decode_ids(path: Path) -> np.ndarray:
    """A label file's ids, (H, W)."""
    try:
        with Image.open(path) as image:
            if image.mode not in ID_MODES:
                raise DataError(
                    f"{path}: a label must hold one id a pixel, this image is of mode {image.mode}"
                )
            return np.asarray(image)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable image ({error}); copy it again or take it off the list")


def _check_sizes(path: Path, label_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    if tuple(label_size) != tuple(image_size):
        raise DataError(
            f"{path}: the label is {label_size[0]}x{label_size[1]} pixels, its image "
            f"{image_size[0]}x{image_size[1]}; they must be of one size"
        )
