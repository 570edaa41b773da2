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

from dataset import Adaptation, MixedDataset, SegmentationDataset, adapt, build_dataset, find_domain
from dataset.base import unused_split
from dataset.sampling import TrainingStream, batches
from dataset.self_training import read_class_balance
from dataset.survey import Survey, check_learnable, check_pair, check_scorable, doubts, has_class
from dataset.transforms import Size
from engine.averaging import Averaging
from engine.loop import Training
from engine.restore import log_stretched
from engine.result_folders import check_apart, check_pseudo_labels, hash_of_data, refuse_unfinished
from engine.resume import STATE_FILE, back_up, check_resumable, load_state, restore, restore_process
from engine.run_log import TrainingLog, log_to_terminal
from engine.snapshots import PICTURES, record_start, result_flags
from engine.validation import Validation
from model.weights import load_weights
from utils.atomic import lock_folder, remove_partial_files, resolve_path
from utils.device import PRECISIONS, choose_device, default_workers, has_bf16, set_precision
from utils.distributed import Processes, init_distributed, shutdown
from utils.errors import UserError, ignore_stop_signals
from utils.idle_flags import TRAINING, log_idle_flags
from utils.memory import PRECISION_ADVICE, out_of_memory_advice
from utils.metrics import format_class_shares
from utils.options import OPTIONS_FILE, SHAPING_OPTIONS, read_options, write_options

PSEUDO_LABEL_FLAGS = ("threshold", "pseudo_dir", "portion", "lr_weight_ent")  # of Stage II
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
    log_idle_flags(args, TRAINING)

    # Data: before the first step every header is checked, and that the labels hold classes.
    pair = adapt(find_domain(args.source), find_domain(args.target))
    check_classes(pair, args)
    labelled, target, validation = build_datasets(pair, args, pseudo_labels)
    log_unused_splits(target, validation, args)
    state = load_state(args.snapshot_dir) if args.resume else None
    if args.resume and not state:
        log.info("--resume: nothing saved in %s: starts from iteration 0.", args.snapshot_dir)
    if not state and args.restore_from == "imagenet" and args.arch != "resnet101":
        raise UserError(
            f"--arch {args.arch} has no ImageNet weights; give --restore-from none, or a snapshot of such a "
            "network"
        )
    target_has_labels, surveys, hashes = False, [], []
    if processes.is_main:  # the other ranks wait in `broadcast`
        check_snapshot_folder(args)
        if pseudo_labels and result_flags(labelled.pseudo_folder).get("label_ids"):
            raise UserError(
                f"{labelled.pseudo_folder}: holds label ids, but pseudo labels are train ids; leave out "
                "--label-ids where you make them"
            )
        if pseudo_labels:
            refuse_unfinished(labelled.pseudo_folder)
        labelled.check(labels_required=True)
        sets = [getattr(labelled, "target", labelled), target]
        if pseudo_labels:
            check_pseudo_labels(sets[0])
        for data in sets:
            check_apart("--snapshot-dir", args.snapshot_dir, data, labels=False)
        hashes = [hash_of_data(data) for data in sets]
        parts = (labelled.target, labelled.source) if isinstance(labelled, MixedDataset) else (labelled,)
        surveys = [(part, check_learnable(part)) for part in parts]
        target_has_labels = target.check(labels_required=False) and has_class(target)
        if validation:
            validation.check(labels_required=True)
            check_scorable(validation)
        for data, size, flag in working_sizes(labelled, target, args):
            log_stretched(data, size, flag)
    target_has_labels = processes.broadcast(target_has_labels, patient=True)

    # Trainer: new, or as it was saved.
    device, gpus = prepare_device(args, processes)
    trainer = build_trainer(trainer_class, args, device, gpus, fresh=state is None)
    averaging = None
    if args.swa or args.adaboost:
        averaging = Averaging(trainer, target, pair, args, stage2=pseudo_labels)
    if state:
        check_resumable(state, trainer, args, [len(labelled), len(target)], processes, hashes)
        restore(state, trainer, args.snapshot_dir / STATE_FILE, averaging)
    trainer.distribute(processes)
    if args.compile and (processes.is_distributed or len(gpus) > 1):
        log.warning("--compile works in one process on one device: training without it.")
    elif args.compile:
        trainer.G.compile()
    if not processes.is_main:
        torch.manual_seed(args.random_seed + processes.rank)  # each rank drops other channels

    # Loop.
    start = state["iteration"] if state else 0
    open_from = partial(open_stream, args=args, device=device, processes=processes)
    weights = averaging.weights if averaging else None
    opened = [open_from(labelled, 0, start), open_from(target, 1, start, weights)]
    streams, loaders = map(list, zip(*opened, strict=True))
    run_log = None
    lock = lock_folder(args.snapshot_dir, "--snapshot-dir") if processes.is_main else nullcontext()
    try:
        with lock:
            if processes.is_main:
                log.info("Labelled: %d images in %s", len(labelled), labelled.image_folder)
                for part, survey in surveys:
                    show_classes(part, survey)
                labels = "labels only for the logged val loss" if target_has_labels else "no labels"
                log.info("Target:   %d images in %s (%s)", len(target), target.image_folder, labels)
                run_log = open_run_folder(args, pair, start)
            if validation:
                validation = Validation(validation, pair, args)
            if state:
                restore_process(state, trainer)  # again: starting the loaders drew random numbers
                state = None  # as large as the networks and their optimisers
            Training(
                *(trainer, args, pair, streams, loaders, target_has_labels, run_log, validation, averaging),
                open_target=partial(open_from, target, 1),
                hashes=hashes,
            ).run(start)
    finally:
        for loader in loaders:
            loader.close()
        if run_log:
            run_log.close()
    shutdown()


def check_classes(pair: Adaptation, args: Namespace) -> None:
    """Refuse too few classes and domains that share none; warn of target classes that are ignored.

    Raises:
        UserError: the network could not learn the classes of the labels.
    """
    if not pair.colors:
        raise UserError(f"--source {args.source}: has no classes; describe its labels in dataset.yaml")
    if args.num_classes < len(pair.colors):
        raise UserError(
            f"--num-classes {args.num_classes}: the labels have {len(pair.colors)} classes; give "
            f"--num-classes {len(pair.colors)}"
        )
    check_pair(pair)
    if pair.unknown_classes:
        log.warning("Target classes that the source lacks are ignored: %s.", ", ".join(pair.unknown_classes))


def show_classes(labelled: SegmentationDataset, survey: Survey) -> None:
    """One row per class of labels to learn from, so that a class without a label is seen; doubts warn."""
    sample = "" if survey.counted == len(labelled) else f"a sample of {survey.counted} of "
    log.info("Classes in %s%d labels:", sample, len(labelled))
    classes, total = tuple(labelled.colors), int(survey.pixels.sum())
    images = {"images": list(map(str, survey.images_with))}
    log.info("%s", format_class_shares(classes, survey.pixels[: len(classes)].tolist(), total, images))
    advice = "; a lower --threshold labels more" if labelled.pseudo_folder else ""
    for doubt in doubts(survey, classes, labelled.table):
        log.warning("Warning: %s%s.", doubt, advice)


def log_unused_splits(
    target: SegmentationDataset, validation: SegmentationDataset | None, args: Namespace
) -> None:
    """Log where --set and --eval-set do not choose the target's images: all are trained and validated on."""
    lines = [unused_split(target, args.given.get("set"))]
    if validation:
        flag = args.given.get("eval_set") or (None if args.eval_list else "--eval-set")
        lines.append(unused_split(validation, flag))
    for line in filter(None, lines):
        log.warning("%s.", line)


def build_datasets(
    pair: Adaptation, args: Namespace, pseudo_labels: bool
) -> tuple[SegmentationDataset, SegmentationDataset, SegmentationDataset | None]:
    """The data sets of the labelled and the target stream, and of the validation if there is one."""
    common = dict(crop_size=args.crop_size, ignore_label=args.ignore_label, colors=pair.colors)
    labelled = build_labelled(pair, args, pseudo_labels, common)
    target = build_dataset(
        args.target,
        args.data_dir_target,
        list_file=args.data_list_target,
        split=args.set,
        labelled_stream=False,
        input_size=args.input_size_target,
        random_scale=args.random_scale,
        random_mirror=args.random_mirror,
        autoaugment=args.autoaug_target,
        **common,
    )
    if not args.eval_every:
        return labelled, target, None
    validation = build_dataset(
        args.target, args.data_dir_target, split=args.eval_set, list_file=args.eval_list, **common
    )
    return labelled, target, validation


def build_labelled(
    pair: Adaptation, args: Namespace, pseudo_labels: bool, common: dict
) -> SegmentationDataset | MixedDataset:
    """The data set of the labelled stream: the source, the target with pseudo labels, or parts of both."""
    flags = vars(args)  # Stage I has only some of them
    common = common | dict(split=args.set, labelled_stream=True, autoaugment=args.autoaug)
    common |= {name: flags[name] for name in ("label_scales", "mine_chance") if name in flags}
    labelled = build_dataset(
        args.target if pseudo_labels else args.source,
        args.data_dir,
        list_file=args.data_list,
        input_size=args.input_size,
        pseudo=pseudo_labels,
        source=args.source,
        **{name: flags[name] for name in PSEUDO_LABEL_FLAGS if name in flags},
        **common,
    )
    if flags.get("portion"):
        balance = read_class_balance(labelled.pseudo_folder, args.portion, args.lr_weight_ent)
        pixels = zip(pair.classes, balance["labelled_pixels"], strict=False)
        if absent := [name for name, count in pixels if not count]:
            log.warning("No pseudo label is %s: only source images can show them.", ", ".join(absent))
        if len(balance["thresholds"]) != args.num_classes:
            raise UserError(
                f"{labelled.pseudo_folder}: labels of {len(balance['thresholds'])} classes, not "
                f"{args.num_classes}; make them with the snapshot of --restore-from"
            )
    if not flags.get("source_portion"):
        return labelled
    source = build_dataset(args.source, args.source_dir, input_size=args.input_size_source, **common)
    return MixedDataset(labelled, source, args.source_portion, args.random_seed)


def working_sizes(
    labelled: SegmentationDataset | MixedDataset, target: SegmentationDataset, args: Namespace
) -> Iterator[tuple[SegmentationDataset, Size, str]]:
    """Each set of images, the size that it is resized to, and the flag that chooses this size."""
    if isinstance(labelled, MixedDataset):
        yield labelled.source, args.input_size_source, "--input-size-source"
        labelled = labelled.target
    yield labelled, args.input_size, "--input-size"
    yield target, args.input_size_target, "--input-size-target"


def check_snapshot_folder(args: Namespace) -> None:
    """Refuse to replace an `opts.yaml` without which the snapshots of an earlier run could not be loaded."""
    folder = Path(args.snapshot_dir)
    if not any(folder.glob("*.pth")):
        return
    if os.path.lexists(folder / OPTIONS_FILE):
        earlier = read_options(folder / OPTIONS_FILE)
        if any(earlier[name] != getattr(args, name) for name in SHAPING_OPTIONS):
            raise UserError(
                f"--snapshot-dir {folder}: holds snapshots of another network; choose another folder"
            )
    if not args.resume:
        log.warning(
            "%s holds an earlier run: files of the same names will be replaced; its log and state are kept "
            "as *.earlier.* (to continue it, give --resume).",
            folder,
        )


def prepare_device(args: Namespace, processes: Processes) -> tuple[torch.device, list[int]]:
    """The device to train on and the GPUs of this process; sets its precision, and the flags to what it has.

    Raises:
        UserError: the flags do not fit the devices.
    """
    if args.batch_size < processes.world_size:
        raise UserError(
            f"--batch-size {args.batch_size}: each of {processes.world_size} processes needs an image; raise "
            f"it to {processes.world_size} or start fewer processes"
        )
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
    return trainer


def open_stream(
    dataset: SegmentationDataset,
    number: int,
    start: int,
    weights: Tensor | None = None,
    *,
    args: Namespace,
    device: torch.device,
    processes: Processes,
) -> tuple[TrainingStream, Iterator[dict]]:
    """The samples of a data set from iteration `start` on, and their batches, decoded by worker processes.

    Args:
        number: 0 for the labelled and 1 for the target stream.
        weights: probabilities (N,) to draw the images with.
    """
    drawn = args.iter_size * args.batch_size  # per iteration
    length = max(0, args.num_steps_stop - start) * drawn
    shared = STREAMS * processes.local_world_size
    workers = default_workers(shared) if args.num_workers is None else args.num_workers
    stream = TrainingStream(dataset, length, (args.random_seed, number), start * drawn, weights)
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
