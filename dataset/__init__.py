"""Data sets: one base class, one file per published set, and your own by description."""

from pathlib import Path

from dataset.base import Domain, PredictionDataset, SegmentationDataset
from dataset.domains import (
    BUILT_IN,
    NO_THRESHOLD,
    SOURCES,
    TARGETS,
    Adaptation,
    adapt,
    find_domain,
    label_table,
    min_label_values,
)
from dataset.images import DataError, IdReader
from dataset.labels import IGNORE, Colors, LabelTable
from dataset.robotcar import ROBOTCAR_COLORS
from dataset.self_training import MixedDataset, read_class_balance
from dataset.transforms import SCALES, Size, TrainingView

PSEUDO = "_pseudo"  # after a built-in name: pseudo labels instead of its own


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
    portion: float = 0.0,
    lr_weight_ent: float = 0.0,
    label_scales: tuple[float, float] = SCALES,
    mine_chance: float = 0.0,
) -> SegmentationDataset:
    """A data set whose items are the training samples of the labelled or the target stream.

    Args:
        name: gta5, synthia, cityscapes, robotcar, or a description file or folder.
        root: its folder, such as ./data/GTA5; None: the default one.
        split: train or val, where it has splits.
        list_file: names, one per line; None scans the folder in sorted order.
        labelled_stream: scale, mirror, and search crops rich in labels (the source; in
            Stage II the pseudo-labelled target); else resize and crop. Default: gta5, synthia and pseudo
            labels. Cityscapes as the source of RobotCar is neither scaled nor searched, as published.
        input_size, crop_size: (height, width).
        random_scale, random_mirror: apply this augmentation in the target stream too.
        autoaugment: ImageNet AutoAugment.
        threshold: of the pseudo labels (None: the pair's default); part of their folder's name.
        pseudo_dir: folder of the pseudo labels, if not the default one.
        ignore_label: train id of pixels without a label.
        source: domain whose network made the pseudo labels; part of their folder's name.
        colors: the network's classes, name -> colour; labels become their train ids, by name. Default: the
            data set's own classes, for pseudo labels the pair's.
        pseudo: use pseudo labels; None: if `name` is a built-in one followed by `_pseudo`.
        portion: of class-balanced pseudo labels; 0: the labels have one threshold.
        lr_weight_ent: of soft pseudo labels; 0: they are hard.
        label_scales: range of the random scale in the labelled stream.
        mine_chance: probability of a crop around a mined class; above 0, crops are not searched for labels.

    Raises:
        DataError: the data set, its folder or the list cannot be used.
    """
    if pseudo is None and name.removesuffix(PSEUDO) in BUILT_IN:
        pseudo, name = name.endswith(PSEUDO), name.removesuffix(PSEUDO)
    if labelled_stream is None:
        labelled_stream = pseudo or name in ("gta5", "synthia")
    domain, balance = find_domain(name), None
    root = domain.root if root is None else Path(root)
    if pseudo:
        pair = adapt(find_domain(source), domain)
        colors = pair.colors if colors is None else colors
        threshold = pair.threshold if threshold is None else threshold
        folder = Path(pseudo_dir) if pseudo_dir else pair.pseudo_folder(root, split, threshold, portion)
        balance = read_class_balance(folder, portion, lr_weight_ent) if portion else None
        train_ids = range(len(colors))
        table = LabelTable.from_ids({i: i for i in train_ids}, (*train_ids, IGNORE), ignore_label)
        labels = dict(table=table, reader=IdReader(), pseudo_folder=folder)
        if lr_weight_ent:
            labels["soft_classes"] = len(balance["thresholds"])
    else:
        colors = domain.colors if colors is None else colors
        labels = dict(table=label_table(domain, colors, ignore_label), reader=domain.reader)
    # Published: Cityscapes as the source of RobotCar is only mirrored.
    published_exception = domain.name == "cityscapes" and colors == ROBOTCAR_COLORS and not pseudo
    scaled = labelled_stream and not published_exception
    view = TrainingView(
        input_size,
        crop_size,
        random_scale=random_scale or scaled,
        random_mirror=random_mirror or labelled_stream,
        min_label_values=min_label_values(domain, colors) if scaled and not mine_chance else None,
        autoaugment=autoaugment,
        ignore_label=ignore_label,
        scales=label_scales if labelled_stream else SCALES,
        mined=tuple(balance["mined_classes"]) if balance else (),
        mine_chance=mine_chance,
    )
    return domain.dataset(
        root=root,
        split=split,
        list_file=Path(list_file) if list_file else None,
        view=view,
        colors=colors,
        labels_required=labelled_stream,
        **labels,
    )


__all__ = [
    "NO_THRESHOLD",
    "SOURCES",
    "TARGETS",
    "Adaptation",
    "DataError",
    "Domain",
    "MixedDataset",
    "PredictionDataset",
    "SegmentationDataset",
    "adapt",
    "build_dataset",
    "find_domain",
]
