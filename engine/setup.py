"""What both stages set up: checked data, seeded trainer with its weights on its device, and the loop."""

import logging
import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from dataset import Adaptation, SegmentationDataset, adapt, build_dataset, find_domain
from dataset.labels import palette
from dataset.sampling import TrainingStream, batches
from engine.loop import PICTURES, Training
from engine.record import record_start
from engine.resume import STATE_FILE, back_up, check_state, load_state, restore_trainer
from engine.run_log import TrainingLog, log_to_terminal
from engine.validation import Validation, validation_data
from model.weights import load_weights
from utils.atomic import remove_partial_files, resolve_path
from utils.device import choose_device, default_workers, set_precision
from utils.distributed import Processes, init_distributed, shutdown
from utils.errors import UserError
from utils.opts_file import OPTIONS_FILE, SHAPING_OPTIONS, read_options, write_options
from utils.stopping import leave_stopping_to_the_main_process

STREAMS = 2
LABELLED_SEED, TARGET_SEED = range(STREAMS)  # added to --random-seed's own
log = logging.getLogger(__name__)


def train_stage(trainer_class: type[nn.Module], args: Namespace, pseudo_labels: bool) -> None:
    """Check everything that can be checked, then train.

    Args:
        trainer_class: `AD_Trainer` of the stage.
        args: its flags.
        pseudo_labels: the labelled stream is the pseudo-labelled target instead of the source.

    Raises:
        UserError: anything the user can put right.
    """
    processes = init_distributed(args.cpu)
    log_to_terminal(processes.is_main)
    if args.batch_size < processes.world_size:
        raise UserError(
            f"--batch-size {args.batch_size}: {processes.world_size} processes need an image each; raise it "
            f"to {processes.world_size} or start fewer"
        )
    pair = adapt(find_domain(args.source), find_domain(args.target))
    check_classes(pair, args)
    labelled, target = build_labelled(pair, args, pseudo_labels), build_target(pair, args)
    validation = validation_data(pair, args) if args.eval_every else None
    state = load_state(args.snapshot_dir) if args.resume else None
    start = state["iteration"] if state else 0
    target_has_labels = False
    if processes.is_main:  # the others wait here, and end if it fails
        refuse_other_network(args)
        labelled.check(labels_required=True)
        target_has_labels = target.check(labels_required=False)
        if validation:
            validation.check(labels_required=True)
    target_has_labels = processes.broadcast(target_has_labels)
    device, gpus = choose_device(args, processes)
    if args.sync_bn and (len(gpus) > 1 or processes.is_distributed and device.type != "cuda"):
        raise UserError("--sync_bn needs torchrun with one GPU per process; start it so, or leave it out")
    args.precision = set_precision(args.precision, device, args.deterministic)
    args.fp16 = args.precision == "fp16"

    torch.manual_seed(args.random_seed)
    trainer = trainer_class(args)
    if state is None:
        load_weights(trainer.G, args.restore_from, restore_classifiers=not args.not_restore_last)
    trainer.to(device, memory_format=torch.channels_last)  # the layout images arrive in
    trainer.device_ids = gpus
    if state:
        check_state(state, trainer, args, [len(labelled), len(target)], processes)
        restore_trainer(state, trainer, args.snapshot_dir / STATE_FILE)
    trainer.distribute(processes)
    if args.compile and (processes.is_distributed or len(gpus) > 1):
        log.warning("--compile works in one process on one device: training without it.")
    elif args.compile:
        trainer.G.compile()
    if not processes.is_main:
        torch.manual_seed(args.random_seed + processes.rank)  # other channels dropped than in the main one
    say_what_is_there(labelled, target, target_has_labels, args)
    streams = build_streams(args, labelled, target, start)
    history = open_run_folder(args, pair, start) if processes.is_main else None
    training = Training(
        trainer=trainer,
        args=args,
        state=state,
        streams=streams,
        loaded=load_streams(streams, args, device, processes),
        target_has_labels=target_has_labels,
        prefix=pair.source.prefix,
        palette=palette(pair.colors),
        history=history,
        validation=Validation(validation, pair, args) if validation else None,
    )
    del state  # as large as the networks and their optimisers
    try:
        training.run()
    finally:
        for loaded in training.loaded:
            loaded.close()
        if history:
            history.close()
    shutdown()


def open_run_folder(args: Namespace, pair: Adaptation, start: int) -> TrainingLog:
    """The snapshot folder with the flags, a record of this start, and the open log."""
    folder = args.snapshot_dir
    for place in (folder, folder / PICTURES):
        remove_partial_files(place)
    if not args.resume:
        back_up(folder)
    if start:
        log.info("Going on at iteration %d of %d.", start, args.num_steps_stop)
    write_options(folder, args, pair.colors)
    record_start(folder, start)
    board = args.log_dir / resolve_path(folder).name if args.tensorboard else None
    length = start, args.num_steps_stop
    return TrainingLog(folder, board, args.log_every, *length, pair.classes, resumed=args.resume)


def build_streams(
    args: Namespace, labelled: SegmentationDataset, target: SegmentationDataset, start: int
) -> tuple[TrainingStream, TrainingStream]:
    """The samples of both streams from iteration `start` to the last one."""
    drawn = args.iter_size * args.batch_size
    length = max(0, args.num_steps_stop - start) * drawn
    return tuple(
        TrainingStream(dataset, length, (args.random_seed, seed), start * drawn)
        for seed, dataset in ((LABELLED_SEED, labelled), (TARGET_SEED, target))
    )


def load_streams(
    streams: Sequence[TrainingStream], args: Namespace, device: torch.device, processes: Processes
) -> tuple[Iterator[dict], ...]:
    """Their batches, decoded beside the training."""
    workers = args.num_workers
    if workers is None:
        workers = default_workers(STREAMS * processes.local_world_size)
    options = dict(
        pin_memory=device.type == "cuda",
        shard=processes.shard,
        worker_init=leave_stopping_to_the_main_process,
    )
    return tuple(batches(stream, args.batch_size, workers, **options) for stream in streams)


def check_classes(pair: Adaptation, args: Namespace) -> None:
    """Refuse too few classes and domains that share none; say which of the target's are passed over.

    Raises:
        UserError: the network could not learn what the labels hold.
    """
    if not pair.colors:
        raise UserError(f"--source {args.source}: has no classes; describe its labels in dataset.yaml")
    if args.num_classes < len(pair.colors):
        raise UserError(
            f"--num-classes {args.num_classes}: the labels are of {len(pair.colors)} classes; give "
            f"--num-classes {len(pair.colors)}"
        )
    if unknown := pair.unknown_classes:
        if len(unknown) == len(pair.target.colors):
            raise UserError(
                f"--target {args.target}: none of its classes ({', '.join(unknown)}) is one of the source's "
                f"({', '.join(pair.classes)}); classes belong together by name"
            )
        log.warning("Classes of the target that the source lacks count nowhere: %s.", ", ".join(unknown))


def refuse_other_network(args: Namespace) -> None:
    """Keep the `opts.yaml` without which the snapshots of an earlier run could not be loaded."""
    folder = Path(args.snapshot_dir)
    if any(folder.glob("*.pth")) and os.path.lexists(folder / OPTIONS_FILE):
        earlier = read_options(folder / OPTIONS_FILE)
        if any(earlier[name] != getattr(args, name) for name in SHAPING_OPTIONS):
            raise UserError(
                f"--snapshot-dir {folder}: holds snapshots of another network; choose another folder"
            )


def build_labelled(pair: Adaptation, args: Namespace, pseudo_labels: bool) -> SegmentationDataset:
    """The labelled stream's data set: the source, or the target with its pseudo labels."""
    made_by = {}
    if pseudo_labels:
        made_by = dict(source=args.source, threshold=args.threshold, pseudo_dir=args.pseudo_dir)
    return build_dataset(
        args.target if pseudo_labels else args.source,
        args.data_dir,
        split=args.set,
        list_file=args.data_list,
        labelled_stream=True,
        input_size=args.input_size,
        crop_size=args.crop_size,
        autoaugment=args.autoaug,
        ignore_label=args.ignore_label,
        colors=pair.colors,
        pseudo=pseudo_labels,
        **made_by,
    )


def build_target(pair: Adaptation, args: Namespace) -> SegmentationDataset:
    """The target stream's data set."""
    return build_dataset(
        args.target,
        args.data_dir_target,
        split=args.set,
        list_file=args.data_list_target,
        labelled_stream=False,
        input_size=args.input_size_target,
        crop_size=args.crop_size,
        random_scale=args.random_scale,
        random_mirror=args.random_mirror,
        autoaugment=args.autoaug_target,
        ignore_label=args.ignore_label,
        colors=pair.colors,
    )


def say_what_is_there(
    labelled: SegmentationDataset, target: SegmentationDataset, target_has_labels: bool, args: Namespace
) -> None:
    """Two lines about the data, and one about an earlier run in the snapshot folder."""
    log.info("Labelled: %d images of %s", len(labelled), labelled.image_folder)
    watched = "labels are watched as val" if target_has_labels else "no labels"
    log.info("Target:   %d images of %s (%s)", len(target), target.image_folder, watched)
    if not args.resume and any(Path(args.snapshot_dir).glob("*.pth")):
        log.warning(
            "%s holds an earlier run: files of the same name are replaced, its log and state are put aside "
            "as *.earlier.* (--resume would go on with it).",
            args.snapshot_dir,
        )
