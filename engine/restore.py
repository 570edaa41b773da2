"""A trained network, the domains it was trained for, and the images it is to predict.

Training writes source, target and classes into `opts.yaml`. Folders of the published code hold less: the
number of classes, and paths of data and snapshots with `SYNTHIA` or `SY` in them.
"""

import argparse
import itertools
import logging
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dataset import Adaptation, PredictionDataset, SegmentationDataset, adapt, build_dataset, find_domain
from dataset.base import prediction_name, unused_split
from dataset.domains import BUILT_IN, EVALUATION_SCALES, Domain, train_id_of
from dataset.images import ColorReader, DataError
from dataset.labels import IGNORE, Colors
from dataset.robotcar import ROBOTCAR_COLORS
from dataset.sampling import batches, sharded_positions
from dataset.survey import check_pair
from dataset.transforms import Size, stretched
from model import TwoClassifiers, build_network
from model.weights import count_classes, load_weights
from utils import flag_types
from utils.atomic import resolve_path
from utils.device import PRECISIONS, InPrecision, count_workers, set_precision
from utils.distributed import SINGLE_PROCESS, Processes
from utils.errors import UserError
from utils.memory import PRECISION_ADVICE
from utils.options import OPTIONS_FILE, network_options, read_options

# SY is case-sensitive, because a lower-case "sy" is often part of a user name.
SYNTHIA = re.compile("(?<![A-Za-z])SY(?![A-Za-z])|(?i:synthia)")
MEMORY_ADVICE = f"give {PRECISION_ADVICE}, or smaller --scales or --input-size"  # of scripts that predict
TELLING_OPTIONS = ("data_dir", "data_list", "restore_from", "snapshot_dir")
log = logging.getLogger(__name__)


def resolve_domains(args: Namespace, scales: str) -> Adaptation:
    """The pair of domains that the flags and the snapshot name; fills in the flags left to the snapshot.

    Args:
        args: flags of a script that predicts; `data_dir`, `scales`, `threshold` and `num_classes` that are
            None get the pair's values, `input_size` the size of the target's images in training.
        scales: "evaluation" or "pseudo labels": whose scales are the default.

    Raises:
        UserError: the snapshot's options cannot be used or do not fit the flags.
    """
    size = None
    if args.restore_from:
        snapshot, options = read_snapshot(args.restore_from)
        pair = recognise(snapshot, options, args.source, args.target)
        if args.num_classes is None:
            args.num_classes = options["num_classes"]
        size = trained_size(pair, options)
    else:
        pair = adapt(find_domain(args.source or "gta5"), find_domain(args.target or "cityscapes"))
    defaults = dict(
        data_dir=pair.target.root,
        input_size=size or pair.target.target_size,
        scales=list(pair.evaluation_scales if scales == "evaluation" else EVALUATION_SCALES),
        threshold=pair.threshold,
        num_classes=len(pair.colors),
    )
    for name, value in defaults.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if not args.restore_from and args.num_classes != len(pair.colors):
        raise UserError(f"--num-classes {args.num_classes}: the labels have {len(pair.colors)}; give that")
    check_pair(pair)
    log.info("%s -> %s, %d classes", pair.source.name, pair.target.name, len(pair.colors))
    return pair


def read_snapshot(restore_from: str) -> tuple[Path, dict]:
    """The path of a snapshot, and everything in the `opts.yaml` beside it.

    Raises:
        UserError: one of the files does not exist, or the options cannot be used.
    """
    snapshot = Path(restore_from)
    if not snapshot.is_file():
        raise UserError(f"--restore-from {restore_from}: no such file; name one such as GTA5_25000.pth")
    options = read_options(snapshot)
    if "classes" not in options:  # published: the network shows how many it really has
        options["num_classes"] = count_classes(snapshot) or options["num_classes"]
    return snapshot, options


def trained_size(pair: Adaptation, options: dict) -> tuple[int, int] | None:
    """(height, width) of the target's images in training; None if unknown or if that was another target."""
    try:
        same = pair.target.name == options.get("target")
        return flag_types.size(str(options.get("input_size_target"))) if same else None
    except argparse.ArgumentTypeError:
        return None


def recognise(
    snapshot: Path, options: dict, source: str | None, target: str | None, images: bool = True
) -> Adaptation:
    """The pair of domains that a snapshot was trained for; `source` and `target` overrule its folder.

    Args:
        options: everything in the `opts.yaml` beside the snapshot.
        images: whether the target's images will be needed; if not, its description may be missing.

    Raises:
        UserError: a description that the training used is missing, or the classes do not fit the network.
    """
    guessed = _published_domains(snapshot, options)
    own = _own_classes(snapshot, options)
    # Published files hold `target: cityscapes` whatever the target was; only files with classes are ours.
    written_target = options.get("target") if own else guessed[1]
    source_domain = _domain(source, options.get("source"), guessed[0], own, "--source")
    target_domain = _domain(target, written_target, guessed[1], None if images else own, "--target")
    pair = adapt(source_domain, target_domain)
    if own and source is None:
        pair = replace(pair, colors=own)
    # Only a network whose own training wrote its classes may have more outputs than classes.
    few, outputs = len(pair.colors), options["num_classes"]
    if few > outputs or (own is None and few != outputs):
        raise UserError(
            f"--source {source_domain.name} --target {target_domain.name}: have {few} classes, "
            f"{snapshot} has {outputs}; name the domains it was trained with"
        )
    return pair


def _published_domains(snapshot: Path, options: dict) -> tuple[str, str]:
    """Source and target of a folder that the published code wrote.

    Nine classes are RobotCar's. SYNTHIA shows in the last two parts of a path: of the data, of the snapshot,
    or in Stage II, whose data are the target's, of the snapshot of Stage I.
    """
    if options["num_classes"] == len(ROBOTCAR_COLORS):
        return "cityscapes", "robotcar"
    paths = [Path(options[name]) for name in TELLING_OPTIONS if isinstance(options.get(name), str)]
    parts = (part for path in (*paths, resolve_path(snapshot)) for part in path.parts[-2:])
    return ("synthia" if any(map(SYNTHIA.search, parts)) else "gta5"), "cityscapes"


def _own_classes(snapshot: Path, options: dict) -> Colors | None:
    """The classes written beside the snapshot; None for a published one."""
    classes = options.get("classes")
    if classes is None:
        return None
    valid = isinstance(classes, dict) and all(
        isinstance(name, str)
        and isinstance(color, list)
        and len(color) == 3
        and all(type(c) is int and 0 <= c <= 255 for c in color)
        for name, color in classes.items()
    )
    if not valid or not classes:
        file = snapshot.parent / OPTIONS_FILE
        raise UserError(f"{file}: classes must be names with [red, green, blue]; copy it again")
    return {name: tuple(color) for name, color in classes.items()}


def _domain(flag: str | None, written: object, guessed: str, own: Colors | None, name: str) -> Domain:
    """The domain that the flag names, else the one written in `opts.yaml`, else the guessed one."""
    if flag:
        return find_domain(flag)
    if not isinstance(written, str):
        return BUILT_IN[guessed]
    try:
        return find_domain(written)
    except DataError:
        if own is None:
            raise UserError(f"{name}: the training's {written} does not exist here; give {name}") from None
        return Domain(written, Path(written).stem, Path("."), own, {}, (), _no_images)


def _no_images(**_):
    raise DataError("--source: the description that the snapshot was trained with is missing; give --source")


def label_ids(pair: Adaptation) -> np.ndarray:
    """The label id to write for each train id, (256,) uint8 or uint16; 255 for none.

    It is the first of its class in the target's table, or in the source's if the target describes no labels.

    Raises:
        UserError: there are no label ids.
    """
    domain = pair.target if pair.target.colors else pair.source
    if isinstance(domain.reader, ColorReader):
        raise UserError(f"--label-ids: the labels of {domain.name} are colours; leave it out for train ids")
    first: dict[int, int] = {}
    for label_id, train_id in train_id_of(domain, pair.colors).items():
        first.setdefault(train_id, label_id)
    if not first:
        raise UserError(f"--label-ids: the label ids of {domain.name} are not known: its description is gone")
    if lacking := [name for train_id, name in enumerate(pair.colors) if train_id not in first]:
        names = ", ".join(lacking)
        log.warning("Classes without a label id in %s become %d: %s.", domain.name, IGNORE, names)
    table = np.full(256, IGNORE, np.uint16)
    table[list(first)] = list(first.values())
    return table.astype(np.min_scalar_type(table.max()))


def prediction_target(pair: Adaptation, args: Namespace) -> SegmentationDataset:
    """The target's images that the flags of a script that predicts name.

    Raises:
        DataError: they cannot be used, or a list names an image twice.
    """
    target = build_dataset(
        args.target or pair.target.name,
        args.data_dir,
        split=args.set,
        list_file=args.data_list,
        colors=pair.colors,
    )
    if line := unused_split(target, args.given.get("set")):
        log.warning("%s.", line)
    seen: dict[str, str] = {}
    for name in target.names:
        file = os.path.normpath(prediction_name(name))
        if file in seen:
            place = args.data_list or target.image_folder
            raise DataError(f"{place}: {seen[file]} and {name} would be one file; name each image once")
        seen[file] = name
    return target


def log_stretched(data: SegmentationDataset, size: Size, flag: str) -> None:
    """Log that the checked images lose their shape at the working size of `flag`, if they do."""
    if line := stretched(data.sizes, size):
        log.warning("%s: %s.", flag, line)


def restore_network(
    args: Namespace, device: torch.device, processes: Processes = SINGLE_PROCESS
) -> TwoClassifiers | InPrecision:
    """The network of `--restore-from`, built by the `opts.yaml` beside it, in evaluation mode on the device.

    `args.precision` is set to the precision in effect; None leaves torch's settings as they are.

    Raises:
        UserError: the snapshot or its options cannot be used, or have another number of classes.
    """
    snapshot, options = read_snapshot(args.restore_from)
    if options["num_classes"] != args.num_classes:
        outputs = options["num_classes"]
        raise UserError(f"--num-classes {args.num_classes}: {snapshot} has {outputs} classes; give that")
    network = build_network(**network_options(options))
    load_weights(network, str(snapshot))
    network = network.to(device, memory_format=torch.channels_last).eval()
    if args.precision:
        # Without a search for the fastest convolutions: last batches, and images in segment.py, vary in size.
        args.precision = set_precision(args.precision, device, processes=processes, benchmark=False)
    return network if PRECISIONS.get(args.precision) is None else InPrecision(network, args.precision)


def prediction_batches(
    images: PredictionDataset, args: Namespace, device: torch.device, processes: Processes
) -> Iterator[dict]:
    """Batches of `--batchsize` whole images per device; each process gets its share."""
    workers = count_workers(args.num_workers, processes.local_world_size)
    # On a CPU a batch gains nothing, and costs large allocations and waiting for several images to decode.
    batch_size = 1 if device.type == "cpu" else args.batchsize
    # Workers deliver images one by one: batched in the workers, a whole batch would wait for one of them.
    single = batches(images, processes.world_size, workers, pin_memory=False, shard=processes.shard)
    return rebatch(single, batch_size, pinned=device.type == "cuda")


def prediction_order(images: int, processes: Processes) -> Iterator[int]:
    """Indices of this process's images, in the order of `prediction_batches`."""
    return itertools.chain.from_iterable(sharded_positions(images, processes.world_size, processes.shard))


def rebatch(single: Iterable[dict], batch_size: int, pinned: bool) -> Iterator[dict]:
    """Join batches of `dataset.PredictionDataset` to batches of `batch_size`; the last may be smaller.

    Args:
        pinned: in page-locked memory, from which a GPU copies without a synchronisation.
    """
    waiting = iter(single)
    while items := list(itertools.islice(waiting, batch_size)):
        batch = {key: [value for item in items for value in item[key]] for key in ("label", "size", "name")}
        scales = zip(*(item["images"] for item in items), strict=True)
        batch["images"] = [torch.cat(scale) for scale in scales]
        if pinned:
            for key in ("label", "images"):
                batch[key] = [tensor.pin_memory() for tensor in batch[key]]
        yield batch
