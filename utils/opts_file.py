"""`opts.yaml`, the flags of a training beside its snapshots: written, read, and what rebuilds the network."""

from argparse import Namespace
from pathlib import Path

import yaml

from dataset.labels import Colors
from dataset.yaml_file import load_yaml, shorten
from model.deeplab_multi import ARCHS, NORM_STYLES
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.flag_types import format_size

OPTIONS_FILE = "opts.yaml"
# What rebuilds a network, with the check of each value.
NETWORK_OPTIONS = {
    "num_classes": lambda value: type(value) is int and 0 < value < 256,
    "use_se": lambda value: isinstance(value, bool),
    "train_bn": lambda value: isinstance(value, bool),
    "norm_style": lambda value: isinstance(value, str) and value in NORM_STYLES,
    "droprate": lambda value: isinstance(value, int | float) and 0 <= value < 1,
    "arch": lambda value: isinstance(value, str) and value in ARCHS,
}
OF_THE_CALL = ("config", "resume")  # flags that say what to do with a run, and are no part of it
SHAPING_OPTIONS = ("num_classes", "use_se", "norm_style", "arch")  # without them a snapshot does not load


def spelled_options(args: Namespace) -> dict:
    """The training flags by name, spelled as on the command line."""

    def spell(name: str, value: object) -> object:
        if name.startswith(("input_size", "crop_size")):
            return format_size(value)
        return str(value) if isinstance(value, Path) else value

    return {name: spell(name, value) for name, value in vars(args).items() if name not in OF_THE_CALL}


def write_options(folder: Path, args: Namespace, classes: Colors) -> None:
    """The training flags as YAML, and the classes with their colours."""
    options = spelled_options(args) | {"classes": {name: list(color) for name, color in classes.items()}}
    text = yaml.safe_dump(options, sort_keys=False)
    atomic_write(folder / OPTIONS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load_options(path: Path) -> dict:
    """What a file of training flags holds, as it is.

    Raises:
        UserError: the file is not there, or no YAML of flags.
    """
    try:
        options = load_yaml(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; it must lie beside the snapshot (training writes it)"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as the flags of a training ({error}); copy it again from where the "
            "training wrote it"
        ) from error
    if not isinstance(options, dict):
        raise UserError(f"{path}: holds no flags; it must be the file that training wrote")
    return options


def read_options(snapshot: Path) -> dict:
    """All that the `opts.yaml` beside a snapshot holds; what rebuilds the network is complete and valid.

    Raises:
        UserError: the file is not there, is no YAML, or lacks a flag of the network.
    """
    path = snapshot.parent / OPTIONS_FILE
    options = load_options(path)
    options.setdefault("arch", "resnet101")  # the published code knew one and did not write it down
    for name, valid in NETWORK_OPTIONS.items():
        if name not in options:
            raise UserError(f"{path}: lacks {name}; it must be the file that training wrote")
        if not valid(options[name]):
            raise UserError(f"{path}: {name} cannot be {shorten(options[name])}; training wrote another file")
    return options


def network_options(options: dict) -> dict:
    """What rebuilds the network: the keyword arguments of `DeeplabMulti` among all options."""
    return {name: options[name] for name in NETWORK_OPTIONS}
