"""What a data set is: a `Domain` describes it, and `SegmentationDataset` finds, checks and decodes its files.

Each published set has a file of its own with its `Domain` and the subclass that knows its paths.
"""

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.images import (
    DataError,
    IdReader,
    LabelReader,
    check_image,
    check_label,
    open_pair,
    read_list,
    scan,
)
from dataset.labels import Colors, LabelTable, UnknownIds
from dataset.transforms import Size, TrainingView, Wanted, resize_whole

SPLIT_FOLDERS = ("train", "training", "trainval", "val", "valid", "validation", "test", "testing")
CHECKING_THREADS = 16  # opening a file waits for the disk or the network


class SegmentationDataset(Dataset):
    """Images and their labels, by name.

    Indexing draws a training sample through `view`: a dict of `image` (H, W, 3) uint8 RGB, `label` (H, W)
    uint8 train ids (all `ignore_label` where the image has no label) and `name`.

    Args:
        root: folder of the data set.
        split: train or val, where the data set has splits.
        list_file: names, one per line; None scans the folder in sorted order.
        view: how samples are drawn.
        table: label ids -> train ids.
        colors: class name -> colour, in the order of the train ids.
        reader: decodes a label file into ids.
        pseudo_folder: labels in train ids, named like the images, that replace the set's own.
        labels_required: a missing label is an error; otherwise the sample's label is all ignored.
        soft_classes: number of planes of the soft labels beside the pseudo labels, which samples then show
            as `soft_labels` (C, H, W) float32, all 0 where a pixel is ignored; 0: there are none.
    """

    image_suffixes: tuple[str, ...] = (".png",)
    divided = True  # whether `split` chooses among the images
    reads_labels = True

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
        soft_classes: int = 0,
    ):
        self.root, self.split, self.view, self.table, self.colors = root, split, view, table, colors
        self.reader, self.pseudo_folder = reader or IdReader(), pseudo_folder
        self.labels_required, self.soft_classes = labels_required, soft_classes
        self.sizes: Counter[tuple[int, int]] = Counter()
        if not self.image_folder.is_dir():
            raise DataError(
                f"{self.image_folder}: no such folder of images; put the data set there or name its root"
            )
        # An array, because reading a list of strings in a forked worker would copy it, page by page.
        self.names = np.array(read_list(list_file) if list_file else self.scan())

    @property
    def image_folder(self) -> Path:
        """The folder that names are relative to."""
        raise NotImplementedError

    def scan(self) -> list[str]:
        """Names of the images in the folder, sorted."""
        return scan(self.image_folder, self.image_suffixes)

    def own_label_path(self, name: str) -> Path | None:
        """Path of the image's label, which need not exist; None in a set without labels."""
        raise NotImplementedError

    def label_path(self, name: str) -> Path | None:
        """Path of the label that samples show: the pseudo label or the set's own."""
        if self.pseudo_folder:
            return self.pseudo_folder / prediction_name(name)
        return self.own_label_path(name)

    def soft_path(self, name: str) -> Path:
        """Path of the soft labels, a PNG with the planes of all classes one below the other."""
        path = self.label_path(name)
        return path.with_name(f"{path.stem}_soft.png")

    def image_path(self, name: str) -> Path:
        """Path of an image."""
        return self.image_folder / name

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        return self.sample(index, np.random.default_rng(int(torch.randint(2**63 - 1, ()))))

    def sample(self, index: int, rng: np.random.Generator, wanted: Wanted | None = None) -> dict:
        """The training sample of image `index` that `rng` draws, `wanted` being what its crop is to show."""
        name = str(self.names[index])
        label_path = self.existing_label(name, self.labels_required) if self.reads_labels else None
        picture, ids = open_pair(self.image_path(name), label_path, self.reader)
        planes = None
        if self.soft_classes:
            planes = self.reader.read(self.soft_path(name)).reshape(self.soft_classes, -1, picture.size[0])
        with self._naming_label(name):
            pixels, label, soft = self.view.apply(picture, ids, self.table, rng, planes, wanted)
        if label is None:
            label = np.full(self.view.crop_size, self.view.ignore_label, np.uint8)
        sample = {"image": torch.from_numpy(pixels), "label": torch.from_numpy(label), "name": name}
        return sample if soft is None else sample | {"soft_labels": torch.from_numpy(soft).movedim(2, 0)}

    def unlabelled(self, view: TrainingView) -> "SegmentationDataset":
        """The same images through another view; labels are not read, and in samples all ignored."""
        images = copy.copy(self)
        images.view, images.reads_labels = view, False
        return images

    def decode(self, name: str, labelled: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
        """The whole image (H, W, 3) RGB and, if `labelled`, its label as train ids (H, W), both uint8."""
        label_path = self.label_path(name) if labelled else None
        picture, ids = open_pair(self.image_path(name), label_path, self.reader)
        with self._naming_label(name):
            return picture.pixels((0, 0, *picture.size)), None if ids is None else self.table.read(ids)

    def train_ids(self, name: str) -> np.ndarray:
        """The whole label of an image as train ids (H, W) uint8."""
        with self._naming_label(name):
            return self.table.read(self.reader.read(self.label_path(name)))

    @contextmanager
    def _naming_label(self, name: str) -> Iterator[None]:
        """Turn an `UnknownIds` into a `DataError` that names the label file."""
        try:
            yield
        except UnknownIds as error:
            raise DataError(
                f"{self.label_path(name)}: {error}: not a label of this data set; replace the file, or in "
                "your own description give the id to a class or to ignore"
            ) from error

    def check(self, labels_required: bool) -> bool:
        """Open the header of every file; return whether any image has a label.

        Counts the images of each (width, height) in `sizes`.

        Raises:
            DataError: a file is missing, cut short, not an image, or a label of another size or mode; or,
                with `labels_required`, an image has no label.
        """

        def size_and_labelled(name: str) -> tuple[tuple[int, int], bool]:
            size = check_image(self.image_path(name))
            label_path = self.existing_label(name, labels_required)
            if label_path is not None:
                check_label(label_path, self.reader, size)
                if self.soft_classes:
                    check_label(self.soft_path(name), self.reader, (size[0], self.soft_classes * size[1]))
            return size, label_path is not None

        with ThreadPoolExecutor(CHECKING_THREADS) as pool:
            sizes, labelled = zip(*pool.map(size_and_labelled, self.names), strict=True)
        self.sizes = Counter(sizes)
        return any(labelled)

    def existing_label(self, name: str, required: bool) -> Path | None:
        """Path of the image's label file; without one None, or a `DataError` if it is `required`."""
        path = self.label_path(name)
        if path is not None and os.path.isfile(path):
            return path
        if not required:
            return None
        if path is None:
            raise DataError(f"{self.root}: images without labels; describe the labels in its dataset.yaml")
        if self.pseudo_folder:
            raise DataError(
                f"{path}: no pseudo label; make them with generate_plabel_cityscapes.py and the same "
                "--threshold"
            )
        advice = "add it or remove its image from the list"
        if (train_ids := path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))).is_file():
            advice = f"{train_ids.name} is there: describe its ids in a dataset.yaml"
        raise DataError(f"{path}: no such label file; {advice}")


class PredictionDataset(Dataset):
    """Every image of a data set, whole, resized to each of `sizes`: the input of prediction.

    Items: dict of `images`, a list of (H, W, 3) uint8 RGB, one per size; `label` (H, W) uint8 train ids at
    the image's own size, empty without `labels`; `size`, the image's own (height, width); `name`.
    """

    def __init__(self, dataset: SegmentationDataset, sizes: list[tuple[int, int]], labels: bool):
        self.dataset, self.sizes, self.labels = dataset, sizes, labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict | DataError:
        name = str(self.dataset.names[index])
        try:
            pixels, label = self.dataset.decode(name, self.labels)
        except DataError as error:
            return error  # not raised: see dataset.sampling
        return {
            "images": [resize_whole(pixels, size) for size in self.sizes],
            "label": torch.from_numpy(np.zeros((0, 0), np.uint8) if label is None else label),
            "size": pixels.shape[:2],
            "name": name,
        }


@dataclass(frozen=True)
class Domain:
    """A data set as source or target.

    Args:
        name: the value of `--source` and `--target`.
        prefix: of the snapshots trained with it as the source.
        root: its default folder.
        colors: class name -> colour; empty where the classes are unknown.
        class_of_id: label id -> class name.
        known_ids: ids that a label may hold; None: any, and those without a class are ignored.
        dataset: makes its `SegmentationDataset` from the same arguments.
        reader: decodes its label files.
        source_size, target_size, pseudo_size: default (height, width) as the source, the target stream and
            the pseudo-labelled stream.
        bare: the root itself holds the images.
    """

    name: str
    prefix: str
    root: Path
    colors: Colors
    class_of_id: Mapping[int, str]
    known_ids: Sequence[int] | None
    dataset: Callable[..., SegmentationDataset]
    reader: LabelReader = field(default_factory=IdReader)
    source_size: Size = (720, 1280)
    target_size: Size = (512, 1024)
    pseudo_size: Size = (640, 1280)
    bare: bool = False


def unused_split(data: SegmentationDataset, flag: str | None) -> str | None:
    """A line where the split does not choose the images although `flag` names one, or they are of several."""
    folders = {part for name in data.names for part in PurePath(name).parts[:-1]}
    found = sorted(folders.intersection(SPLIT_FOLDERS))
    if data.divided or not (flag or len(found) > 1):
        return None
    where = f"{flag or '--set'} {data.split} has no effect on {data.image_folder}"
    if found:
        return (
            f"{where}: images of {', '.join(found)} are read alike; in a description, write {{split}} for "
            "these folders, with * for those above"
        )
    return f"{where}: it has no folders of splits; choose images by a list, such as --data-list"


def prediction_name(name: str) -> str:
    """The file name of a prediction for image `name`: the same name as PNG."""
    return str(Path(name).with_suffix(".png"))
