"""A trained network and the images it is to see, for the scripts that predict."""

import itertools
import logging
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataset import Adaptation, PredictionDataset, SegmentationDataset, adapt, build_dataset, find_domain
from dataset.base import prediction_name
from dataset.domains import EVALUATION_SCALES
from dataset.images import DataError
from dataset.sampling import ShardedBatches, batches
from engine.restore import recognise
from model.deeplab_multi import DeeplabMulti
from model.weights import count_classes, load_weights
from utils.device import default_workers
from utils.distributed import Processes
from utils.errors import UserError
from utils.memory import images_a_pass
from utils.options import network_options, read_options

log = logging.getLogger(__name__)


def resolve_domains(args: Namespace, scales: str) -> Adaptation:
    """Which domains the flags and the snapshot mean; fills in the flags that were left to it.

    Args:
        args: flags of a script that predicts; `data_dir`, `scales`, `threshold` and `num_classes` that are
            None get the pair's values, `input_size` the size that the target was trained at.
        scales: "evaluation" or "pseudo labels": whose scales are the default.

    Raises:
        UserError: the snapshot's options cannot be used or do not fit the flags.
    """
    size = None
    if args.restore_from:
        snapshot = find_snapshot(args)
        options = snapshot_options(snapshot)
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
        raise UserError(f"--num-classes {args.num_classes}: the labels are of {len(pair.colors)} classes")
    if scales == "evaluation" and pair.target.colors and len(pair.unknown_classes) == len(pair.target.colors):
        raise UserError(
            f"--target {pair.target.name}: none of its classes ({', '.join(pair.unknown_classes)}) is one of "
            f"the network's ({', '.join(pair.classes)}); classes belong together by name"
        )
    log.info("%s -> %s, %d classes", pair.source.name, pair.target.name, len(pair.colors))
    return pair


def trained_size(pair: Adaptation, options: dict) -> tuple[int, int] | None:
    """(height, width) of the target's images in the training of `options`; None if that had another."""
    if pair.target.name != options.get("target"):
        return None
    return parsed_size(options.get("input_size_target"))


def parsed_size(written: object) -> tuple[int, int] | None:
    """The (height, width) that `opts.yaml` spells width,height; None where it is nothing of the kind."""
    sides = written.split(",") if isinstance(written, str) else ()
    if len(sides) != 2 or not all(re.fullmatch(r"0*[1-9]\d{0,4}", side, re.ASCII) for side in sides):
        return None
    return int(sides[1]), int(sides[0])


def prediction_target(pair: Adaptation, args: Namespace) -> SegmentationDataset:
    """The target's images as the flags of a script that predicts name them.

    Raises:
        DataError: they cannot be used, or an image stands twice in a list.
    """
    target = build_dataset(
        args.target or pair.target.name,
        args.data_dir,
        split=args.set,
        list_file=args.data_list,
        colors=pair.colors,
    )
    seen: dict[str, str] = {}
    for name in target.names:
        file = os.path.normpath(prediction_name(name))
        if file in seen:
            raise DataError(
                f"{args.data_list or target.image_folder}: {seen[file]} and {name} stand for one prediction; "
                "name each image once"
            )
        seen[file] = name
    return target


def snapshot_options(snapshot: Path) -> dict:
    """`read_options`; the file itself says how many classes a published network has."""
    options = read_options(snapshot)
    if "classes" not in options:
        options["num_classes"] = count_classes(snapshot) or options["num_classes"]
    return options


def find_snapshot(args: Namespace) -> Path:
    """The file of `--restore-from`.

    Raises:
        UserError: there is none.
    """
    if "://" in args.restore_from:
        raise UserError(f"--restore-from {args.restore_from}: download it, and opts.yaml beside it, first")
    snapshot = Path(args.restore_from)
    if not snapshot.is_file():
        raise UserError(f"--restore-from {snapshot}: no such file; name a snapshot such as GTA5_25000.pth")
    return snapshot


def restore_network(args: Namespace, device: torch.device) -> DeeplabMulti:
    """The network of `--restore-from` as the `opts.yaml` beside it says, ready to predict on the device.

    Raises:
        UserError: the snapshot or its options cannot be used, or hold another number of classes.
    """
    snapshot = find_snapshot(args)
    options = network_options(snapshot_options(snapshot))
    if options["num_classes"] != args.num_classes:
        raise UserError(
            f"--num-classes {args.num_classes}: {snapshot} was trained with {options['num_classes']} classes"
        )
    network = DeeplabMulti(**options)
    load_weights(network, str(snapshot))
    return network.to(device, memory_format=torch.channels_last).eval()


def prediction_batches(
    images: PredictionDataset, args: Namespace, device: torch.device, processes: Processes
) -> Iterator[dict]:
    """Batches of whole images as the flags say, of several processes each its part."""
    workers = default_workers(processes.local_world_size) if args.num_workers is None else args.num_workers
    pinned = device.type == "cuda"
    # --batchsize is of a device, since nothing depends on it but memory.
    pixels = max(height * width for height, width in images.sizes)
    batch_size = processes.broadcast(images_a_pass(args.batchsize, pixels, device))
    # Workers hand images over one by one: however large a batch is, few wait, and no worker has a whole one
    # to itself while the others have none.
    single = batches(images, processes.world_size, workers, pin_memory=False, shard=processes.shard)
    return rebatch(single, batch_size, pinned)


def prediction_order(images: int, processes: Processes) -> Iterator[int]:
    """Places in the data set of this process's images, in the order of `prediction_batches`."""
    return itertools.chain.from_iterable(ShardedBatches(images, processes.world_size, processes.shard))


def rebatch(single: Iterable[dict], batch_size: int, pinned: bool) -> Iterator[dict]:
    """Batches of `dataset.PredictionDataset` in batches of `batch_size`, the last one smaller."""
    waiting = iter(single)
    while items := list(itertools.islice(waiting, batch_size)):
        batch = {key: [value for item in items for value in item[key]] for key in ("label", "size", "name")}
        scales = zip(*(item["images"] for item in items), strict=True)
        yield batch | {"images": [_joined(scale, pinned) for scale in scales]}


def _joined(images: Sequence[Tensor], pinned: bool) -> Tensor:
    if len(images) == 1 and not pinned:
        return images[0]
    shape = (sum(map(len, images)), *images[0].shape[1:])
    return torch.cat(images, out=torch.empty(shape, dtype=torch.uint8, pin_memory=pinned))
