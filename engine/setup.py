"""Wires a training of either stage from its flags: data, trainer, log, loop."""

import logging
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset import Adaptation, SegmentationDataset
from dataset.pairs import PairDataset
from dataset.rare_classes import RareClasses, class_pixels
from dataset.sampling import TrainingStream, batches
from engine.averaging import Averaging
from engine.loop import Training
from engine.resume import STATE_FILE, back_up, check_resumable, load_state, restore, restore_process
from engine.run_log import TrainingLog, log_to_terminal
from engine.snapshots import PICTURES, record_start
from engine.training_data import TrainingData
from engine.validation import Validation
from model.weights import has_imagenet_weights, load_weights
from utils.atomic import lock_folder, remove_partial_files, resolve_path
from utils.device import PRECISIONS, choose_device, count_workers, has_bf16, set_precision
from utils.distributed import Processes, init_distributed, shutdown
from utils.errors import UserError, ignore_stop_signals
from utils.idle_flags import log_idle_flags
from utils.memory import PRECISION_ADVICE, out_of_memory_advice
from utils.options import OPTIONS_FILE, SHAPING_OPTIONS, read_options, write_options

MEMORY_ADVICE = f"lower --batch-size or --crop-size, give {PRECISION_ADVICE} or --checkpointing"
STREAMS = 2  # labelled and target
log = logging.getLogger(__name__)


@out_of_memory_advice(MEMORY_ADVICE)
def run_training(trainer_class: type[nn.Module], args: Namespace, pseudo_labels: bool) -> None:
    """Check the flags, the data and the folders, then train.

    Args:
        trainer_class: `AD_Trainer` of the stage.
        args: its flags.
        pseudo_labels: the labelled stream is the target with its pseudo labels instead of the source.

    Raises:
        UserError, DataError, WeightsError: anything the user can fix.
    """
    processes = init_distributed(args.cpu)
    log_to_terminal(processes.is_main)
    log_idle_flags(args)

    # Data.
    data = TrainingData(args, pseudo_labels)
    state = read_state(args)
    if processes.is_main:  # the other ranks wait in `broadcast`
        check_snapshot_folder(args)
        data.check()
    data.target_has_labels = processes.broadcast(data.target_has_labels, patient=True)
    streams = STREAMS + (args.lambda_patch > 0)
    workers = count_workers(args.num_workers, streams * processes.local_world_size)
    rare_classes = None
    if getattr(args, "rcs", 0):  # Stage II has no such flag
        pixels = class_pixels(data.labelled, workers) if processes.is_main else None
        pixels = processes.broadcast(pixels, patient=True)
        settings = args.rcs, args.rcs_pixels, args.rcs_crop
        rare_classes = RareClasses(pixels, tuple(data.labelled.colors), *settings)

    # Trainer: new, or as it was saved.
    device, gpus = prepare_device(args, processes)
    trainer = build_trainer(trainer_class, args, device, gpus, fresh=state is None)
    averaging = None
    if args.swa or args.adaboost:
        averaging = Averaging(trainer, data.target, data.pair, args, stage2=pseudo_labels)
    if state:
        images = [len(data.labelled), len(data.target)]
        check_resumable(state, trainer, args, images, processes, data.hashes)
        restore(state, trainer, args.snapshot_dir / STATE_FILE, averaging)
    distribute(trainer, args, processes)

    # Loop.
    start = state["iteration"] if state else 0
    open_from = partial(open_stream, args=args, workers=workers, device=device, processes=processes)
    weights = averaging.weights if averaging else None
    opened = [
        open_from(data.labelled, 0, start, rare_classes=rare_classes),
        open_from(data.target, 1, start, weights),
    ]
    if args.lambda_patch:
        pairs = PairDataset(data.target, args.input_size_target, args.patch_size)
        opened.append(open_from(pairs, 2, max(start, args.patch_start)))
    streams, loaders = map(list, zip(*opened, strict=True))
    run_log = None
    lock = lock_folder(args.snapshot_dir, "--snapshot-dir") if processes.is_main else nullcontext()
    try:
        with lock:
            if processes.is_main:
                data.show()
                run_log = open_run_folder(args, data.pair, start)
            validation = Validation(data.validation, data.pair, args) if data.validation else None
            if state:
                restore_process(state, trainer)  # again: starting the loaders drew random numbers
                state = None  # as large as the networks and their optimisers
            Training(
                *(trainer, args, data.pair, streams, loaders, data.target_has_labels, run_log, validation),
                averaging,
                open_target=partial(open_from, data.target, 1),
                hashes=data.hashes,
            ).run(start)
    finally:
        for loader in loaders:
            loader.close()
        if run_log:
            run_log.close()
    shutdown()


def read_state(args: Namespace) -> dict | None:
    """What `--resume` goes on from; None for a new run.

    Raises:
        UserError: the state cannot be used, or the network has no ImageNet weights to start from.
    """
    state = load_state(args.snapshot_dir) if args.resume else None
    if args.resume and not state:
        log.info("--resume: nothing saved in %s: starts from iteration 0.", args.snapshot_dir)
    if not state and args.restore_from == "imagenet" and not has_imagenet_weights(args.arch):
        raise UserError(f"--arch {args.arch} has no ImageNet weights; give --restore-from none or a snapshot")
    return state


def check_snapshot_folder(args: Namespace) -> None:
    """Refuse to replace an `opts.yaml` without which the snapshots of an earlier run could not be loaded."""
    folder = Path(args.snapshot_dir)
    if not any(folder.glob("*.pth")):
        return
    if os.path.lexists(folder / OPTIONS_FILE):
        earlier = read_options(folder / OPTIONS_FILE)
        if any(earlier[name] != getattr(args, name) for name in SHAPING_OPTIONS):
            raise UserError(f"--snapshot-dir {folder}: holds snapshots of another network; choose another")
    if not args.resume:
        kept = "its log and state are kept as *.earlier.* (to continue it, give --resume)"
        log.warning("%s holds an earlier run: files of the same names will be replaced; %s.", folder, kept)


def prepare_device(args: Namespace, processes: Processes) -> tuple[torch.device, list[int]]:
    """The device to train on and the GPUs of this process; sets its precision, and the flags to what it has.

    Raises:
        UserError: the flags do not fit the devices.
    """
    if args.batch_size < processes.world_size:
        each = f"each of {processes.world_size} processes"
        raise UserError(f"--batch-size {args.batch_size}: {each} needs an image; raise it")
    device, gpus = choose_device(args, processes)
    if args.sync_bn and (len(gpus) > 1 or processes.is_distributed and device.type != "cuda"):
        raise UserError("--sync_bn needs torchrun with one GPU per process; start it so, or leave it out")
    args.precision = set_precision(
        args.precision, device, gpus=gpus, processes=processes, deterministic=args.deterministic
    )
    args.fp16 = args.precision == "fp16"
    if device.type == "cuda" and PRECISIONS[args.precision] is None and has_bf16(gpus):
        log.info(
            "--precision %s: --precision bf16 takes about half the time and two thirds of the memory.",
            args.precision,
        )
    return device, gpus


def build_trainer(
    trainer_class: type[nn.Module], args: Namespace, device: torch.device, gpus: list[int], fresh: bool
) -> nn.Module:
    """The trainer on its device; `fresh`: with the initial weights of `--restore-from`."""
    torch.manual_seed(args.random_seed)
    trainer = trainer_class(args)
    if fresh:
        load_weights(trainer.G, args.restore_from, restore_classifiers=not args.not_restore_last)
    trainer.to(device, memory_format=torch.channels_last)  # the layout images arrive in
    trainer.device_ids = gpus
    if getattr(args, "lambda_fd", 0):  # Stage II has no such flag
        trainer.load_reference()
    return trainer


def distribute(trainer: nn.Module, args: Namespace, processes: Processes) -> None:
    """Spread the trainer over the processes, and compile its network where one process has one device."""
    trainer.distribute(processes)
    if args.compile and (processes.is_distributed or len(trainer.device_ids) > 1):
        log.warning("--compile works in one process on one device: training without it.")
    elif args.compile:
        trainer.compile()
    if not processes.is_main:
        torch.manual_seed(args.random_seed + processes.rank)  # each rank drops other channels


def open_stream(
    dataset: SegmentationDataset,
    number: int,
    start: int,
    weights: Tensor | None = None,
    rare_classes: RareClasses | None = None,
    *,
    args: Namespace,
    workers: int,
    device: torch.device,
    processes: Processes,
) -> tuple[TrainingStream, Iterator[dict]]:
    """The samples of a data set from iteration `start` on, and their batches, decoded by worker processes.

    Args:
        number: 0 for the labelled and 1 for the target stream, 2 for pairs of views.
        weights: probabilities (N,) to draw the images with.
        rare_classes: draws the images by class.
    """
    drawn = args.iter_size * args.batch_size  # per iteration
    length = max(0, args.num_steps_stop - start) * drawn
    draw_rare = rare_classes and rare_classes.draw
    stream = TrainingStream(dataset, length, (args.random_seed, number), start * drawn, weights, draw_rare)
    pinned = device.type == "cuda"
    return stream, batches(stream, args.batch_size, workers, pinned, processes.shard, ignore_stop_signals)


def open_run_folder(args: Namespace, pair: Adaptation, start: int) -> TrainingLog:
    """Write the flags and the record of this start to the snapshot folder; open its log."""
    folder = args.snapshot_dir
    for place in (folder, folder / PICTURES):
        remove_partial_files(place)
    if not args.resume:
        back_up(folder)
    if start:
        log.info("Resuming at iteration %d of %d.", start, args.num_steps_stop)
    write_options(folder, args, pair.colors)
    record_start(folder, start)
    board = args.log_dir / resolve_path(folder).name if args.tensorboard else None
    return TrainingLog(folder, board, start, args.num_steps_stop, pair.classes, resumed=args.resume)
