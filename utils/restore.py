"""A trained network and the images it is to see, for the scripts that predict."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from dataset.base import PredictionDataset
from dataset.stream import batches
from model.deeplab_multi import DeeplabMulti
from model.weights import load_weights
from utils.checkpoint import read_network_options
from utils.device import choose_device, default_workers
from utils.errors import UserError


def restore_network(args: Namespace) -> tuple[DeeplabMulti, torch.device]:
    """The network of `--restore-from` as the `opts.yaml` beside it says, ready to predict on its device.

    Raises:
        UserError: the snapshot or its options cannot be used, or hold another number of classes.
    """
    if "://" in args.restore_from:
        raise UserError(f"--restore-from {args.restore_from}: download it, and opts.yaml beside it, first")
    snapshot = Path(args.restore_from)
    if not snapshot.is_file():
        raise UserError(f"--restore-from {snapshot}: no such file; name a snapshot such as GTA5_25000.pth")
    options = read_network_options(snapshot)
    if options["num_classes"] != args.num_classes:
        raise UserError(
            f"--num-classes {args.num_classes}: {snapshot} was trained with {options['num_classes']} classes"
        )
    network = DeeplabMulti(**options)
    load_weights(network, str(snapshot))
    device, _ = choose_device(args)
    return network.to(device, memory_format=torch.channels_last).eval(), device


def prediction_batches(images: PredictionDataset, args: Namespace, device: torch.device) -> Iterator[dict]:
    """Batches of whole images as the flags say."""
    workers = default_workers(streams=1) if args.num_workers is None else args.num_workers
    return batches(images, args.batchsize, workers, pin_memory=device.type == "cuda")
