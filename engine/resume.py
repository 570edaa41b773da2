"""The state for `--resume`: with it a training continues as if it had never stopped.

One file in the snapshot folder, replaced by every save: networks, optimisers, loss scaler, class weights, the
random states and batch statistics of every process, the flags, and the iteration, from which the position in
both streams of samples follows.
"""

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from engine.averaging import Averaging
from engine.run_log import LOG_FILE, VALIDATION_FILE
from engine.snapshots import check_finite, save_tensors
from model.weights import load_tensors
from utils.distributed import Processes
from utils.errors import UserError
from utils.options import OPTIONS_FILE, spelled_options

STATE_FILE = "training_state.pt"
FORMAT = 1
ENTRIES = dict(format=int, stage=str, iteration=int, trainer=dict, processes=list, options=dict, images=list)
# With other values the state does not fit the networks or optimisers, or the labels mean something else.
FIXED_OPTIONS = (
    *("num_classes", "use_se", "norm_style", "arch", "train_bn", "optimizer", "single_updates"),
    *("source", "target", "batch_size", "iter_size", "random_seed", "adversarial"),
)
HEADS = ("lambda_pixel", "lambda_patch")  # their heads are part of the state where they are above 0
# May change on resume without changing results; changing any other flag prints a warning.
FREE_OPTIONS = {
    *("snapshot_dir", "log_dir", "log_every", "tensorboard", "save_pred_every", "save_num_images", "keep"),
    *("save_state_every", "eval_every", "eval_set", "eval_list", "keep_best"),
    *("num_steps_stop", "num_workers", "gpu_ids", "cpu", "checkpointing", "restore_from", "not_restore_last"),
    *("data_dir", "data_dir_target", "data_list", "data_list_target", "pseudo_dir", "source_dir"),
    *("deterministic", "fp16"),
}
# What the hashes are of; the last where source images are mixed in.
DATA = ("labelled images, or labels made anew", "target images", "source images")
EARLIER = ".earlier"  # goes before the suffix of files that a new run in the same folder would overwrite
log = logging.getLogger(__name__)


def save_state(
    folder: Path,
    trainer: nn.Module,
    iteration: int,
    args: Namespace,
    images: list[int],
    averaging: Averaging | None = None,
    hashes: Sequence[str] = (),
) -> None:
    """Save everything before iteration `iteration`. All ranks call it; rank 0 writes.

    Args:
        images: sizes of the two data sets, on which the order of samples depends.
        hashes: of what is in them, on rank 0.

    Raises:
        UserError: the networks are not finite, or the file cannot be written; the last save is kept.
    """
    own = {
        "random": {
            "cpu": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state(gpu) for gpu in trainer.device_ids],
        },
        "buffers": {name: value.cpu() for name, value in trainer.G.named_buffers()},
    }
    processes = trainer.processes.gather(own)
    if not trainer.processes.is_main:
        return
    content = trainer.training_state()
    check_finite(content["networks"], iteration)
    state = {
        "format": FORMAT,
        "stage": type(trainer).__module__,
        "iteration": iteration,
        "trainer": content,
        "processes": processes,
        "options": spelled_options(args),
        "images": images,
        "hashes": list(hashes),
    }
    if averaging:
        state["averaging"] = averaging.state()
    save_tensors(folder / STATE_FILE, state)


def load_state(folder: Path) -> dict | None:
    """The state in a snapshot folder; None if there is none. Nothing in the file is executed.

    Raises:
        UserError: the file is damaged or not a state; or there are snapshots but no state.
    """
    path = folder / STATE_FILE
    if not os.path.lexists(path):
        if any(folder.glob("*.pth")):
            advice = "start from one with --restore-from in another --snapshot-dir"
            raise UserError(f"--resume: {folder} holds snapshots but no {STATE_FILE}; {advice}")
        return None
    try:
        state = load_tensors(path)
    except ValueError as error:
        advice = "replace it with a copy, or start from a snapshot with --restore-from"
        raise UserError(f"{path}: cannot be read as a training state ({error}); {advice}") from error
    kinds = {key: type(state.get(key)) for key in ENTRIES} if type(state) is dict else None
    if kinds != ENTRIES or state["format"] != FORMAT or state["iteration"] < 0:
        raise UserError(f"{path}: not a training state of this version; remove it to start afresh")
    return state


def check_resumable(
    state: dict,
    trainer: nn.Module,
    args: Namespace,
    images: list[int],
    processes: Processes,
    hashes: Sequence[str] = (),
) -> None:
    """Refuse a state that these flags do not fit; warn of what makes the results differ.

    Raises:
        UserError: another stage, network, optimiser, batch size, seed or pair of domains.
    """
    path = args.snapshot_dir / STATE_FILE
    if state["stage"] != type(trainer).__module__:
        raise UserError(f"{path}: is from {state['stage']}; choose another --snapshot-dir")
    before, now = {"optimizer": "sgd"} | state["options"], spelled_options(args)
    # By what they print as: values from a damaged file may not even compare.
    changed = [name for name in now if name in before and repr(before[name]) != repr(now[name])]
    free = FREE_OPTIONS - {"save_pred_every"} if args.cosine else FREE_OPTIONS  # the cosine's period
    switched = [name for name in HEADS if bool(before.get(name)) != bool(now[name])]
    for name in changed + switched:
        if name in FIXED_OPTIONS or name in switched:
            flag, was = f"--{name.replace('_', '-')} {now[name]}", f"{before.get(name, 0.0)!r:.100}"
            raise UserError(f"{flag}: {args.snapshot_dir} has {was}; give that or choose another folder")
    if trainer.stateful().keys() != state["trainer"].keys() - {"networks"}:
        flags = "--lambda-adv-target1 and --lambda-adv-target2"
        raise UserError(f"{path}: is of other discriminators; give its {flags}, or another --snapshot-dir")
    differing = [f"{name} {now[name]} (was {before[name]!r:.100})" for name in changed if name not in free]
    if images != state["images"]:
        differing.append(f"{images} images (was {state['images']!r:.100})")
    else:
        # States of earlier versions have no hashes.
        for kind, before, now in zip(DATA, state.get("hashes") or (), hashes, strict=False):
            if before != now:
                differing.append(f"other {kind}")
    if processes.world_size != len(state["processes"]):
        differing.append(f"{processes.world_size} processes (was {len(state['processes'])})")
    if differing:
        log.warning(
            "Resumed with different settings or data. Not what an uninterrupted run would have computed: %s.",
            ", ".join(differing),
        )


def restore(state: dict, trainer: nn.Module, path: Path, averaging: Averaging | None = None) -> None:
    """Load the state of `path` into networks, optimisers, scaler, class weights and random generators.

    An average that the state lacks, because the run had none, starts empty.

    Raises:
        UserError: the state does not fit them.
    """
    optimisers = [part for part in trainer.stateful().values() if isinstance(part, Optimizer)]
    settings = [[dict(group) for group in optimiser.param_groups] for optimiser in optimisers]
    try:
        trainer.load_training_state(state["trainer"])
        for optimiser, groups in zip(optimisers, settings, strict=True):
            for group, flags in zip(optimiser.param_groups, groups, strict=True):
                group.update(flags)  # rates, momentum, ...: the flags may have changed since
        restore_process(state, trainer)
        if averaging and "averaging" in state:
            averaging.load_state(state["averaging"])
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: does not fit the networks ({reason}); choose another") from error


def restore_process(state: dict, trainer: nn.Module) -> None:
    """Restore this rank's batch statistics and random states.

    Call it right before the first step: starting a DataLoader draws from torch's generator.
    """
    own = state["processes"][min(trainer.processes.rank, len(state["processes"]) - 1)]
    with torch.no_grad():
        for name, buffer in trainer.G.named_buffers():
            buffer.copy_(own["buffers"][name])
    torch.set_rng_state(own["random"]["cpu"])
    for gpu, random in zip(trainer.device_ids, own["random"]["cuda"], strict=False):
        torch.cuda.set_rng_state(random, gpu)


def back_up(folder: Path) -> None:
    """Rename what a new run in the folder of an earlier one would overwrite first."""
    for name in (STATE_FILE, LOG_FILE, VALIDATION_FILE, OPTIONS_FILE):
        path = folder / name
        if path.is_file():
            path.replace(path.with_stem(path.stem + EARLIER))
