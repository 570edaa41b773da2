"""Data sets: label tables as data, one base class, a small class a data set."""

from pathlib import Path

from dataset.base import DataError, PredictionDataset, SegmentationDataset
from dataset.cityscapes import Cityscapes, PseudoCityscapes
from dataset.gta5 import GTA5
from dataset.labels import CITYSCAPES_COLORS, IGNORE, cityscapes_table, train_id_table
from dataset.transforms import MIN_LABEL_VALUES, Size, TrainingView

DATASETS = ("gta5", "cityscapes", "cityscapes_pseudo")
SNAPSHOT_PREFIX = {"gta5": "GTA5"}  # by --source
NO_THRESHOLD = 1.0  # pseudo labels of every pixel


def pseudo_folder(root: Path | str, split: str, threshold: float = NO_THRESHOLD) -> Path:
    """Where the pseudo labels of Cityscapes' `split` lie: `pseudo_FULL`, or `pseudo_0.9` with 0.9."""
    kind = "FULL" if threshold == NO_THRESHOLD else f"{threshold:.1f}"
    return Path(root) / f"pseudo_{kind}" / split


def build_dataset(
    name: str,
    root: Path | str,
    *,
    split: str = "train",
    list_file: Path | str | None = None,
    labelled_stream: bool | None = None,
    input_size: Size = (720, 1280),
    crop_size: Size = (360, 640),
    random_scale: bool = False,
    random_mirror: bool = False,
    autoaugment: bool = False,
    threshold: float = NO_THRESHOLD,
    pseudo_dir: Path | str | None = None,
    ignore_label: int = IGNORE,
) -> SegmentationDataset:
    """A data set whose items are the training samples of the labelled or the target stream.

    Args:
        name: one of `DATASETS`.
        root: its folder, such as ./data/GTA5 or ./data/Cityscapes/data.
        split: part of Cityscapes (train, val).
        list_file: names, one a line; None scans the folder in sorted order.
        labelled_stream: scale in [0.8, 1.2], mirror, and search crops rich in labels (the source; in
            Stage II the pseudo-labelled target); else resize and crop. Default: all but cityscapes.
        input_size, crop_size: (height, width).
        random_scale, random_mirror: switch the one augmentation on in the target stream.
        autoaugment: ImageNet AutoAugment.
        threshold: of the pseudo labels; names their folder.
        pseudo_dir: folder of the pseudo labels, if it is another one.
        ignore_label: train id of pixels without a label.

    Raises:
        ValueError: `name` is unknown.
        DataError: the folder or the list cannot be used.
    """
    if name not in DATASETS:
        raise ValueError(f"data set {name!r} is none of {', '.join(DATASETS)}")
    if labelled_stream is None:
        labelled_stream = name != "cityscapes"
    view = TrainingView(
        input_size,
        crop_size,
        random_scale=random_scale or labelled_stream,
        random_mirror=random_mirror or labelled_stream,
        min_label_values=MIN_LABEL_VALUES if labelled_stream else None,
        autoaugment=autoaugment,
        ignore_label=ignore_label,
    )
    files = dict(root=Path(root), split=split, list_file=list_file and Path(list_file), view=view)
    if name == "cityscapes_pseudo":
        table = train_id_table(len(CITYSCAPES_COLORS), ignore_label)
        folder = Path(pseudo_dir or pseudo_folder(root, split, threshold))
        return PseudoCityscapes(**files, table=table, colors=CITYSCAPES_COLORS, pseudo_folder=folder)
    kind = {"gta5": GTA5, "cityscapes": Cityscapes}[name]
    return kind(**files, table=cityscapes_table(ignore_label), colors=CITYSCAPES_COLORS)


__all__ = ["DataError", "PredictionDataset", "SegmentationDataset", "build_dataset", "pseudo_folder"]
