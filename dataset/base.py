"""One base class that finds, checks and decodes images and labels; a data set adds where its files are."""

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dataset.beside import ChecksBeside
from dataset.damaged import Damaged
from dataset.images import (
    DataError,
    IdReader,
    LabelReader,
    Picture,
    check_picture_mode,
    check_sizes,
    decode_image,
    read_header,
    read_list,
    scan,
)
from dataset.labels import Colors, LabelTable, UnknownIds
from dataset.names import Names
from dataset.transforms import TrainingView, resize_whole

log = logging.getLogger(__name__)
CHECKING_THREADS = 16  # opening files waits for the disk or the network
CHECKED_FIRST = 1000  # images; the headers of a larger set are opened beside the training


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
        reader: how a label file becomes ids.
        pseudo_folder: of labels in train ids, named as the images, that take the place of the set's own.
        labels_required: a sample whose label is missing is an error; else its label is all ignored.
    """

    image_suffixes: tuple[str, ...] = (".png",)
    excluded_suffix: str | None = None  # of files among the images that are none
    excluded_folders: tuple[Path, ...] = ()  # within the folder of images that hold none

    def __init__(
        self,
        root: Path,
        split: str,
        list_file: Path | None,
        view: TrainingView,
        table: LabelTable,
        colors: Colors,
        reader: LabelReader | None = None,
        pseudo_folder: Path | None = None,
        labels_required: bool = False,
    ):
        self.root, self.split, self.view, self.table, self.colors = root, split, view, table, colors
        self.reader, self.pseudo_folder = reader or IdReader(), pseudo_folder
        self.labels_required = labels_required
        if not self.image_folder.is_dir():
            raise DataError(
                f"{self.image_folder}: no such folder of images; put the data set there or name its root"
            )
        self.listed = list_file is not None
        self.names = Names(
            read_list(list_file)
            if list_file
            else scan(self.image_folder, self.image_suffixes, self.excluded_suffix, self.excluded_folders)
        )

    @property
    def image_folder(self) -> Path:
        """The folder that names are relative to."""
        raise NotImplementedError

    def own_label_path(self, name: str) -> Path | None:
        """Where the data set's own label of an image lies if it has one; None in a set without labels."""
        raise NotImplementedError

    def label_path(self, name: str) -> Path | None:
        """Where the label lies that the samples show, if there is one."""
        if self.pseudo_folder:
            return self.pseudo_folder / prediction_name(name)
        return self.own_label_path(name)

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
        picture = Picture(self.image_path(name))
        ids = self._ids(name, picture)
        try:
            pixels, label = self.view.apply(picture, ids, self.table, rng)
        except UnknownIds as error:
            raise self._unknown_ids(name, error) from error
        if label is None:
            label = np.full(self.view.crop_size, self.view.ignore_label, np.uint8)
        return {
            "image": torch.from_numpy(pixels),
            "label": torch.from_numpy(label),
            "name": name,
        }

    def decode(self, name: str) -> tuple[Image.Image, np.ndarray | None]:
        """The whole RGB image and its label ids (H, W), None where there is no label file."""
        picture = Picture(self.image_path(name))
        return picture.crop((0, 0, *picture.size)), self._ids(name, picture)

    def _ids(self, name: str, picture: Picture) -> np.ndarray | None:
        """The label ids (H, W) of a picture, None where there is no label file."""
        path = self.label_path(name)
        if path is None or not os.path.isfile(path):
            if self.labels_required:
                raise DataError(self.missing_label(path))
            return None
        ids = self.reader.read(path)
        check_sizes(path, ids.shape[::-1], picture.size)
        return ids

    def train_ids(self, name: str) -> np.ndarray:
        """The whole label of an image as train ids (H, W) uint8."""
        try:
            return self.table.read(self.reader.read(self.label_path(name)))
        except UnknownIds as error:
            raise self._unknown_ids(name, error) from error

    def _unknown_ids(self, name: str, error: UnknownIds) -> DataError:
        return DataError(
            f"{self.label_path(name)}: {error}: no label of this data set; replace the file, or in a "
            "description of your own give the id to a class or to the ignored ones"
        )

    def check(
        self,
        labels_required: bool,
        beside: ChecksBeside | None = None,
        damaged: Damaged | None = None,
    ) -> bool:
        """Look for every file and open its header; whether any image has a label.

        Args:
            labels_required: an image without a label is an error.
            beside: opens the headers of a set of more than `CHECKED_FIRST` images later, so that this takes
                a fraction of a second; by default all are opened here.
            damaged: what becomes of files that cannot be used; by default the first one is an error.

        Raises:
            DataError: a file is missing, cut short, no image, or a label of another size or mode.
        """
        damaged = damaged or Damaged()
        if self.listed:  # others have been seen by the scan
            for path, there in exist(self.image_path(name) for name in self.names):
                if not there:
                    with _met(damaged):
                        read_header(path)  # says what is wrong
        any_label = False
        for path, there in exist(self.label_path(name) for name in self.names):
            any_label |= there
            if labels_required and not there:
                with _met(damaged):
                    raise DataError(self.missing_label(path))

        def check_pair(name: str) -> None:
            with _met(damaged):
                self._check_pair(name, labels_required)

        if beside is not None and len(self) > CHECKED_FIRST:
            beside.add(lambda index: check_pair(self.names[index]), len(self))
        else:
            with ThreadPoolExecutor(CHECKING_THREADS) as pool:
                for _ in pool.map(check_pair, self.names):
                    pass  # passes on a thread's error
        return any_label

    def _check_pair(self, name: str, label_required: bool) -> None:
        size, image_mode = read_header(self.image_path(name))
        check_picture_mode(self.image_path(name), image_mode)
        path = self.label_path(name)
        if path is None or not os.path.isfile(path):
            if label_required:
                raise DataError(self.missing_label(path))
            return
        label_size, mode = read_header(path)
        self.reader.check(path, mode)
        check_sizes(path, label_size, size)

    def missing_label(self, path: Path | None) -> str:
        """What to say of a label that must be there and is not."""
        if path is None:
            return f"{self.root}: pictures without labels; say in its dataset.yaml what the labels mean"
        if self.pseudo_folder:
            return (
                f"{path}: no pseudo label; make them with generate_plabel_cityscapes.py and the same "
                "--threshold"
            )
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
            pixels = np.array(decode_image(self.dataset.image_path(name)))
            label = self.dataset.train_ids(name) if self.labels else np.zeros((0, 0), np.uint8)
        except DataError as error:  # travels as a value: see dataset.sampling
            return error
        return {
            "images": [resize_whole(pixels, size) for size in self.sizes],
            "label": torch.from_numpy(label),
            "size": pixels.shape[:2],
            "name": name,
        }


@contextmanager
def _met(damaged: Damaged) -> Iterator[None]:
    """Within it an unusable file is counted in and said once, or stops what runs."""
    try:
        yield
    except DataError as error:
        if damaged.meet(str(error)):
            log.warning("Passed over: %s", error)


def exist(paths: Iterable[Path | None]) -> Iterator[tuple[Path | None, bool]]:
    """Each path and whether it is a file's, by listing its folder once instead of asking for every file."""
    listed: dict[str, set[str]] = {}
    for path in paths:
        if path is None:
            yield None, False
            continue
        folder, _, name = str(path).rpartition(os.sep)
        if folder not in listed:
            try:
                with os.scandir(folder or os.curdir) as entries:
                    listed[folder] = {entry.name for entry in entries if _is_file(entry)}
            except OSError:
                listed[folder] = set()
        # A folder may know a file by another spelling too, such as in capitals.
        yield path, name in listed[folder] or (bool(listed[folder]) and os.path.isfile(path))


def _is_file(entry: os.DirEntry) -> bool:
    """Or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def prediction_name(name: str) -> str:
    """The file that holds a prediction of image `name`: the same name, as PNG."""
    return str(Path(name).with_suffix(".png"))
