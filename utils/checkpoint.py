"""Snapshots and the flags beside them."""

from argparse import Namespace
from pathlib import Path

import torch
import yaml
from torch import nn

from dataset.labels import Colors
from model.deeplab_multi import ARCHS, NORM_STYLES
from utils.errors import UserError
from utils.files import write_whole
from utils.flag_types import format_size

OPTIONS_FILE = "opts.yaml"
# What rebuilds a network, with the check of each value.
NETWORK_OPTIONS = {
    "num_classes": lambda value: type(value) is int and value > 0,
    "use_se": lambda value: isinstance(value, bool),
    "train_bn": lambda value: isinstance(value, bool),
    "norm_style": lambda value: value in NORM_STYLES,
    "droprate": lambda value: isinstance(value, int | float) and 0 <= value < 1,
    "arch": lambda value: value in ARCHS,
}
SHAPING_OPTIONS = ("num_classes", "use_se", "norm_style", "arch")  # without them a snapshot does not load


def save_snapshot(trainer: nn.Module, folder: Path, prefix: str, iteration: int) -> None:
    """`<prefix>_<iteration>.pth` with the network, `…_D1.pth` and `…_D2.pth` with the discriminators.

    Raises:
        UserError: the network holds values that are not finite, or the files cannot be written.
    """
    broken = [key for key, value in trainer.G.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"iteration {iteration}: {broken[0]} is not finite, so no snapshot is written over a good one; "
            "lower --learning-rate"
        )
    for suffix, module in (("", trainer.G), ("_D1", trainer.D1), ("_D2", trainer.D2)):
        state = module.state_dict()
        write_whole(folder / f"{prefix}_{iteration}{suffix}.pth", lambda path, s=state: torch.save(s, path))


def write_options(folder: Path, args: Namespace, classes: Colors) -> None:
    """The training flags as YAML, spelled as on the command line, and the classes with their colours."""

    def spell(name: str, value: object) -> object:
        if name.startswith(("input_size", "crop_size")):
            return format_size(value)
        return str(value) if isinstance(value, Path) else value

    options = {name: spell(name, value) for name, value in vars(args).items()}
    options["classes"] = {name: list(color) for name, color in classes.items()}
    write_whole(folder / OPTIONS_FILE, lambda path: path.write_text(yaml.safe_dump(options, sort_keys=False)))


class _OptionsLoader(yaml.SafeLoader):
    """Safe, but reads the tuples that the published code wrote into its files."""


_OptionsLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)


def read_options(snapshot: Path) -> dict:
    """All that the `opts.yaml` beside a snapshot holds; what rebuilds the network is complete and valid.

    Raises:
        UserError: the file is not there, is no YAML, or lacks a flag of the network.
    """
    path = snapshot.parent / OPTIONS_FILE
    try:
        options = yaml.load(path.read_text(encoding="utf-8"), _OptionsLoader)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; it must lie beside the snapshot (training writes it)"
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as the flags of a training ({error})") from error
    if not isinstance(options, dict):
        raise UserError(f"{path}: holds no flags; it must be the file that training wrote")
    options.setdefault("arch", "resnet101")  # the published code knew one and did not write it down
    for name, valid in NETWORK_OPTIONS.items():
        if name not in options:
            raise UserError(f"{path}: lacks {name}; it must be the file that training wrote")
        if not valid(options[name]):
            raise UserError(f"{path}: {name} cannot be {options[name]!r}; training wrote another file")
    return options


def network_options(options: dict) -> dict:
    """What rebuilds the network: the keyword arguments of `DeeplabMulti` among all options."""
    return {name: options[name] for name in NETWORK_OPTIONS}
