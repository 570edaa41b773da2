"""All that a training needs to go on as if it had never stopped: what `--resume` reads.

One file in the snapshot folder, each save in the place of the last: networks, optimisers, loss scaler, class
weights, every process's random states and batch statistics, the iteration and with it the position in both
streams of samples, and the flags.
"""

import logging
import os
from argparse import Namespace
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from dataset.yaml_file import shorten
from engine.run_log import LOG_FILE, VALIDATION_FILE
from engine.snapshots import save_tensors
from model.weights import load_tensors
from utils.distributed import Processes
from utils.errors import UserError
from utils.opts_file import OPTIONS_FILE, spelled_options

STATE_FILE = "training_state.pt"
FORMAT = 1
ENTRIES = {
    **{"format": int, "stage": str, "iteration": int, "trainer": dict, "processes": list, "options": dict},
    **{"images": list, "damaged": list},
}
# Without them the state does not fit the networks or the optimisers, or the labels mean something else.
FIXED_OPTIONS = (
    *("num_classes", "use_se", "norm_style", "arch", "train_bn", "single_updates"),
    *("source", "target", "batch_size", "iter_size", "random_seed"),
)
# They change what is written or where, but no number; any other flag that changes is said.
FREE_OPTIONS = {
    *("snapshot_dir", "log_dir", "log_every", "tensorboard", "save_pred_every", "save_num_images", "keep"),
    *("save_state_every", "pictures_every", "eval_every", "eval_set", "eval_list", "keep_best"),
    *("num_steps_stop", "num_workers", "gpu_ids", "cpu", "checkpointing", "restore_from", "not_restore_last"),
    *("data_dir", "data_dir_target", "data_list", "data_list_target", "pseudo_dir", "on_damaged"),
    *("max_damaged", "deterministic", "fp16"),
}
EARLIER = ".earlier"  # before the ending of a file that a new run in the same folder puts aside
log = logging.getLogger(__name__)


def save_state(
    folder: Path,
    trainer: nn.Module,
    iteration: int,
    args: Namespace,
    images: list[int],
    damaged: list[str],
) -> None:
    """Save everything before iteration `iteration`; all processes call it, the main one writes.

    Args:
        images: numbers of the two data sets, on which the order of samples depends.
        damaged: files skipped so far.

    Raises:
        UserError: the networks are not finite, or the file cannot be written; the last save is kept.
    """
    processes = trainer.processes.gather(
        {
            "random": random_states(trainer.device_ids),
            "buffers": {name: value.cpu() for name, value in trainer.G.named_buffers()},
        }
    )
    if not trainer.processes.is_main:
        return
    content = trainer.training_state()
    refuse_broken(content["networks"], iteration)
    state = {
        "format": FORMAT,
        "stage": type(trainer).__module__,
        "iteration": iteration,
        "trainer": content,
        "processes": processes,
        "options": spelled_options(args),
        "images": images,
        "damaged": damaged,
    }
    save_tensors(folder / STATE_FILE, state)


def refuse_broken(networks: dict[str, torch.Tensor], iteration: int) -> None:
    """Keep values that are not finite from being saved over good ones.

    Raises:
        UserError: there are some.
    """
    if name := _not_finite(networks):
        raise UserError(
            f"iteration {iteration}: {name} is not finite, so nothing is saved over the last good state; "
            "lower --learning-rate and go on from that with --resume"
        )


def _not_finite(networks: dict[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with a value that is not finite; waits for the device once."""
    finite = torch.stack([value.isfinite().all() for value in networks.values()]).tolist()
    return next((name for name, good in zip(networks, finite, strict=True) if not good), None)


def load_state(folder: Path) -> dict | None:
    """The state in a snapshot folder, checked to be one; None where there is none.

    Raises:
        UserError: the file is damaged, or not by this program; or there are snapshots but no state.
    """
    path = folder / STATE_FILE
    if not os.path.lexists(path):
        if any(folder.glob("*.pth")):
            raise UserError(
                f"--resume: {folder} holds snapshots but no {STATE_FILE}; start from a snapshot with "
                "--restore-from in another --snapshot-dir"
            )
        return None
    try:
        state = load_tensors(path)
    except ValueError as error:
        raise UserError(
            f"{path}: cannot be read as a training's state ({error}); put a copy in its place, "
            "or remove it and start from a snapshot with --restore-from"
        ) from error
    if not _well_formed(state):
        raise UserError(f"{path}: holds no state of this version's training; remove it to start afresh")
    return state


def _well_formed(state: object) -> bool:
    """Whether every entry is of its kind; whether it fits the networks, `restore_trainer` sees."""
    return (
        isinstance(state, dict)
        and all(type(state.get(name)) is kind for name, kind in ENTRIES.items())
        and state["format"] == FORMAT
        and state["iteration"] >= 0
        and len(state["images"]) == 2
        and all(type(count) is int and count > 0 for count in state["images"])
        and all(type(name) is str for name in (*state["damaged"], *state["options"]))
        and len(state["processes"]) > 0
        and all(map(_well_formed_process, state["processes"]))
    )


def _well_formed_process(own: object) -> bool:
    """Whether a process's part has random states that torch can take, and buffers."""
    if type(own) is not dict or not type(own.get("random")) is type(own.get("buffers")) is dict:
        return False
    random, buffers = own["random"], own["buffers"]
    try:
        torch.Generator().set_state(random["cpu"])
        return all(isinstance(value, torch.Tensor) for value in (*random["cuda"], *buffers.values()))
    except (RuntimeError, LookupError, TypeError, AttributeError):
        return False


def check_state(
    state: dict, trainer: nn.Module, args: Namespace, images: list[int], processes: Processes
) -> None:
    """Refuse to go on with what the state does not fit; say what makes the run another one.

    Raises:
        UserError: another stage, network, optimiser, batch size, seed or pair of domains.
    """
    path, now = args.snapshot_dir / STATE_FILE, spelled_options(args)
    if state["stage"] != type(trainer).__module__:
        raise UserError(f"{path}: is of {state['stage']}, the other stage; choose another --snapshot-dir")
    before = state["options"]
    changed = [name for name in now if name in before and before[name] != now[name]]
    for name in changed:
        if name in FIXED_OPTIONS:
            raise UserError(
                f"--{name.replace('_', '-')} {now[name]}: the run in {args.snapshot_dir} has "
                f"{shorten(before[name])}, and cannot go on with another; choose another --snapshot-dir"
            )
    differing = [
        f"{name} {now[name]} (was {shorten(before[name])})" for name in changed if name not in FREE_OPTIONS
    ]
    if images != state["images"]:
        differing.append(f"{images} images (were {state['images']})")
    if processes.world_size != len(state["processes"]):
        differing.append(f"{processes.world_size} processes (were {len(state['processes'])})")
    if differing:
        log.warning("Not what an uninterrupted run would have done, from here on: %s.", ", ".join(differing))


def restore_trainer(state: dict, trainer: nn.Module, path: Path) -> None:
    """Put networks, optimisers, scaler and class weights in place; every process calls it.

    Raises:
        UserError: the state, which came from `path`, does not fit them.
    """
    optimisers = [value for value in vars(trainer).values() if isinstance(value, Optimizer)]
    groups = [_kinds(optimiser) for optimiser in optimisers]
    try:
        trainer.load_training_state(state["trainer"])
        if groups != [_kinds(optimiser) for optimiser in optimisers]:
            raise ValueError("the optimisers' settings are of other kinds")
        for optimiser in optimisers:
            _check_moments(optimiser)
        for own in state["processes"]:
            _check_buffers(own["buffers"], trainer.G)
        if name := _not_finite(trainer.state_dict()):
            raise ValueError(f"{name} is not finite")
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: does not fit the networks ({_first_line(error)}); it is damaged or was made by another "
            "version"
        ) from error


def _kinds(optimiser: Optimizer) -> list[dict[str, object]]:
    """Of each group's settings the type, and of lists the length."""
    return [
        {name: len(value) if isinstance(value, list) else type(value) for name, value in group.items()}
        for group in optimiser.param_groups
    ]


def _check_moments(optimiser: Optimizer) -> None:
    """Refuse moments that the next step could not use: parts missing, of other shapes, not finite."""
    names = {frozenset(moments) for moments in optimiser.state.values()}
    if len(names) > 1:
        raise ValueError("some parameters have moments that others lack")
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if not isinstance(value, torch.Tensor) or value.shape not in ((), parameter.shape):
                raise ValueError(f"{name} is not of its parameter's shape {tuple(parameter.shape)}")
            if not value.isfinite().all():
                raise ValueError(f"{name} is not finite")


def _check_buffers(saved: dict[str, torch.Tensor], network: nn.Module) -> None:
    """Refuse other batch statistics than the network's."""
    shapes = {name: value.shape for name, value in network.named_buffers()}
    if {name: value.shape for name, value in saved.items()} != shapes:
        raise ValueError("the batch statistics are of another network")


def restore_process(state: dict, trainer: nn.Module) -> None:
    """Put this process's own part in place, right before the first step: nothing may draw in between."""
    own = state["processes"][min(trainer.processes.rank, len(state["processes"]) - 1)]
    with torch.no_grad():
        for name, buffer in trainer.G.named_buffers():
            buffer.copy_(own["buffers"][name])
    states = own["random"]
    torch.set_rng_state(states["cpu"])
    for device, random in zip(trainer.device_ids, states["cuda"], strict=False):
        torch.cuda.set_rng_state(random, device)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def random_states(gpus: list[int]) -> dict:
    """Of the generators that dropout draws from. Samples have generators of their own, by position."""
    states = {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(gpu) for gpu in gpus]}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def back_up(folder: Path) -> None:
    """Before a new run in the folder of an earlier one: keep what it would overwrite first."""
    for name in (STATE_FILE, LOG_FILE, VALIDATION_FILE, OPTIONS_FILE):
        path = folder / name
        if path.is_file():
            try:
                path.replace(path.with_stem(path.stem + EARLIER))
            except OSError as error:
                raise UserError(f"{path}: cannot be put aside ({error.strerror})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
