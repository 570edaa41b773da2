"""Bad training states for `--resume`: no states, damaged, carrying code, incomplete, of another run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.bad_input import checkpoints, hostile
from tests.bad_input.case import Case
from tests.bad_input.images import at
from tests.bad_input.world import GOOD, RUN, STATE, TRAINING

KIND = "training states"
NEVER = {"null": None, "text": "x", "a number": -1, "a list": [], "a mapping": {}, "a tensor": torch.zeros(1)}
KEYS = ("format", "stage", "iteration", "trainer", "processes", "options", "images", "damaged")
PARTS = ("networks", "gen_opt", "dis1_opt", "scaler")
NOT_WRONG = (("options", "a mapping"), ("damaged", "a list"))
RESUME = (*TRAINING, "--snapshot-dir", RUN, "--num-steps", "4", "--num-steps-stop", "4", "--resume")


def _changed(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return spoil


def _set(*keys: object, value: object) -> Callable[[Path], object]:
    """One entry, by the keys that lead to it, is another."""

    def change(state: dict) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return _changed(change)


def _without(*keys: object) -> Callable[[Path], object]:
    def change(state: dict) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return _changed(change)


def _first_moment(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Of the segmentation network's first parameter."""
    return _changed(lambda state: change(next(iter(state["trainer"]["gen_opt"]["state"].values()))))


SPOILT: dict[str, Callable[[Path], object]] = {
    **checkpoints.NO_CHECKPOINTS,
    "a snapshot": lambda path: path.write_bytes((path.parent / "GTA5_2.pth").read_bytes()),
    "code beside the entries": _changed(lambda state: state.update(code=hostile.Code())),
    "code in place of a tensor": _set("trainer", "networks", "often_weight", value=hostile.Code()),
    **{f"no {key}": _without(key) for key in KEYS},
    **{
        f"{key}: {what}": _set(key, value=value)
        for key in KEYS
        for what, value in NEVER.items()
        if (key, what) not in NOT_WRONG
    },
    **{f"no {part}": _without("trainer", part) for part in PARTS},
    **{
        f"{part}: {what}": _set("trainer", part, value=value)
        for part in PARTS[:-1]  # a scaler that is off reads nothing
        for what, value in NEVER.items()
    },
    "a later version": _set("format", value=99),
    "the other stage": _set("stage", value="trainer_ms_variance"),
    "a network's tensor less": _without("trainer", "networks", "often_weight"),
    "a network's tensor more": _set("trainer", "networks", "more", value=torch.zeros(1)),
    "a network's tensor of another shape": _set("trainer", "networks", "often_weight", value=torch.zeros(3)),
    "a network's tensor not finite": _set(
        "trainer", "networks", "often_weight", value=torch.full((19,), float("nan"))
    ),
    "no groups": _set("trainer", "gen_opt", "param_groups", value=[]),
    "a group's rate of text": _set("trainer", "gen_opt", "param_groups", 0, "lr", value="high"),
    "a group without a rate": _without("trainer", "gen_opt", "param_groups", 0, "lr"),
    "a group of fewer repeats": _set("trainer", "gen_opt", "param_groups", 0, "repeats", value=[1]),
    "a group of other parameters": _set("trainer", "gen_opt", "param_groups", 0, "params", value=[0]),
    "a momentum of another shape": _first_moment(lambda m: m.update(momentum_buffer=torch.zeros(7))),
    "a momentum not finite": _first_moment(lambda m: m["momentum_buffer"].fill_(float("inf"))),
    "a momentum of text": _first_moment(lambda m: m.update(momentum_buffer="fast")),
    "a momentum less": _first_moment(lambda m: m.pop("momentum_buffer")),
    "a process that is a tensor": _set("processes", value=[torch.zeros(3)]),
    "random states that are a tensor": _set("processes", 0, "random", value=torch.zeros(3)),
    "random states of text": _set("processes", 0, "random", "cpu", value="random"),
    "random states cut short": _set("processes", 0, "random", "cpu", value=torch.zeros(9, dtype=torch.uint8)),
    "no random states": _without("processes", 0, "random"),
    "no batch statistics": _set("processes", 0, "buffers", value={}),
    "batch statistics of text": _changed(
        lambda state: state["processes"][0].update(
            buffers=dict.fromkeys(state["processes"][0]["buffers"], "x")
        )
    ),
    "other numbers of images": _set("images", value=["3", "1"]),
    "a negative number of images": _set("images", value=[3, -1]),
    "damaged files that are no names": _set("damaged", value=[7]),
}
# Flags that the run cannot go on with.
OTHER_RUNS = {
    "another number of classes": ("--num-classes", "20"),
    "another network": ("--norm-style", "gn"),
    "another batch": ("--batch-size", "1"),
    "another seed": ("--random-seed", "7"),
    "another source": ("--source", "own", "--data-dir", "own"),
    "the other stage": (),
}


def cases() -> Iterator[Case]:
    """Every spoilt state, and runs that a good one does not belong to."""
    for what, spoil in SPOILT.items():
        named = (RUN,) if what == "gone" else (STATE,)
        yield Case(KIND, what, "train_ms", RESUME, named, at(STATE, spoil))
    for what, flags in OTHER_RUNS.items():
        script = "train_ms" if flags else "train_ft"
        yield Case(KIND, what, script, (*RESUME, *flags), (RUN,) if flags else ())


def accepted() -> Iterator[Case]:
    """An unspoilt one goes on, and a run without one starts."""
    for what, flags in {
        "a state to go on from": RESUME,
        "a run to start": (*GOOD["train_ms"], "--resume"),
        "more iterations at the end": (*RESUME, "--save-pred-every", "2", "--tensorboard", "False"),
    }.items():
        yield Case("good input is accepted", what, "train_ms", flags, ())
