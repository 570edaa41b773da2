"""Data sets: label tables as data, one base class, a small class a data set, descriptions of your own."""

from pathlib import Path

from dataset.base import PredictionDataset, SegmentationDataset
from dataset.domains import (
    BUILT_IN,
    NO_THRESHOLD,
    SOURCES,
    TARGETS,
    Adaptation,
    Domain,
    adapt,
    find_domain,
    min_label_values,
)
from dataset.images import DataError, IdReader
from dataset.labels import IGNORE, ROBOTCAR_COLORS, Colors, train_id_table
from dataset.transforms import Size, TrainingView

PSEUDO = "_pseudo"  # behind a built-in name: with pseudo labels in place of its own


def pseudo_folder(
    root: Path | str,
    split: str,
    threshold: float = NO_THRESHOLD,
    source: str = "gta5",
    target: str = "cityscapes",
) -> Path:
    """Where the pseudo labels of a target's `split` lie: `pseudo_FULL`, or `pseudo_0.9` with 0.9."""
    pair = adapt(find_domain(source), find_domain(target))
    return pair.pseudo_folder(Path(root), split, threshold)


def build_dataset(
    name: str,
    root: Path | str | None = None,
    *,
    split: str = "train",
    list_file: Path | str | None = None,
    labelled_stream: bool | None = None,
    input_size: Size = (720, 1280),
    crop_size: Size = (360, 640),
    random_scale: bool = False,
    random_mirror: bool = False,
    autoaugment: bool = False,
    threshold: float | None = None,
    pseudo_dir: Path | str | None = None,
    ignore_label: int = IGNORE,
    source: str = "gta5",
    colors: Colors | None = None,
    pseudo: bool | None = None,
) -> SegmentationDataset:
    """A data set whose items are the training samples of the labelled or the target stream.

    Args:
        name: gta5, synthia, cityscapes, robotcar, or a description file or folder.
        root: its folder, such as ./data/GTA5; None: the usual one.
        split: part of it (train, val), where it has parts.
        list_file: names, one a line; None scans the folder in sorted order.
        labelled_stream: scale in [0.8, 1.2], mirror, and search crops rich in labels (the source; in
            Stage II the pseudo-labelled target); else resize and crop. Default: gta5, synthia and pseudo
            labels. Cityscapes as the source of RobotCar is neither scaled nor searched, as published.
        input_size, crop_size: (height, width).
        random_scale, random_mirror: switch the one augmentation on in the target stream.
        autoaugment: ImageNet AutoAugment.
        threshold: of the pseudo labels (None: the pair's own); names their folder.
        pseudo_dir: folder of the pseudo labels, if it is another one.
        ignore_label: train id of pixels without a label.
        source: domain whose network made the pseudo labels; names their folder.
        colors: the network's classes, name -> colour; labels read as their train ids, by name. Default:
            the data set's own, for pseudo labels the pair's.
        pseudo: show pseudo labels; None: where a built-in name has `_pseudo` behind it.

    Raises:
        DataError: the data set, its folder or the list cannot be used.
    """
    if pseudo is None and name.removesuffix(PSEUDO) in BUILT_IN:
        pseudo, name = name.endswith(PSEUDO), name.removesuffix(PSEUDO)
    domain = find_domain(name)
    root = domain.root if root is None else Path(root)
    pair = adapt(find_domain(source), domain) if pseudo else None
    if colors is None:
        colors = pair.colors if pseudo else domain.colors
    if labelled_stream is None:
        labelled_stream = pseudo or name in ("gta5", "synthia")
    # Cityscapes as the source of RobotCar was used without them.
    jitter = labelled_stream and (pseudo or domain.name != "cityscapes" or colors != ROBOTCAR_COLORS)
    view = TrainingView(
        input_size,
        crop_size,
        random_scale=random_scale or jitter,
        random_mirror=random_mirror or labelled_stream,
        min_label_values=min_label_values(domain, colors) if jitter else None,
        autoaugment=autoaugment,
        ignore_label=ignore_label,
    )
    folder = None
    if pseudo:
        threshold = pair.threshold if threshold is None else threshold
        folder = Path(pseudo_dir) if pseudo_dir else pair.pseudo_folder(root, split, threshold)
    return domain.dataset(
        root=root,
        split=split,
        list_file=list_file and Path(list_file),
        view=view,
        table=(
            train_id_table(len(colors), ignore_label) if pseudo else domain.table(tuple(colors), ignore_label)
        ),
        colors=colors,
        reader=IdReader() if pseudo else domain.reader,
        pseudo_folder=folder,
        labels_required=labelled_stream,
    )


__all__ = [
    "NO_THRESHOLD",
    "SOURCES",
    "TARGETS",
    "Adaptation",
    "DataError",
    "Domain",
    "PredictionDataset",
    "SegmentationDataset",
    "adapt",
    "build_dataset",
    "find_domain",
    "pseudo_folder",
]
