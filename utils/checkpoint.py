"""Snapshots and the flags beside them."""

from argparse import Namespace
from pathlib import Path

import torch
import yaml
from torch import nn

from utils.errors import UserError
from utils.files import write_whole
from utils.options import format_size

OPTIONS_FILE = "opts.yaml"
NETWORK_OPTIONS = ("num_classes", "use_se", "train_bn", "norm_style", "droprate")


def save_snapshot(trainer: nn.Module, folder: Path, prefix: str, iteration: int) -> None:
    """`<prefix>_<iteration>.pth` with the network, `…_D1.pth` and `…_D2.pth` with the discriminators."""
    for suffix, module in (("", trainer.G), ("_D1", trainer.D1), ("_D2", trainer.D2)):
        state = module.state_dict()
        write_whole(folder / f"{prefix}_{iteration}{suffix}.pth", lambda path, s=state: torch.save(s, path))


def write_options(folder: Path, args: Namespace) -> None:
    """The training flags as YAML, spelled as on the command line."""

    def spell(name: str, value: object) -> object:
        if name.startswith(("input_size", "crop_size")):
            return format_size(value)
        return str(value) if isinstance(value, Path) else value

    options = {name: spell(name, value) for name, value in vars(args).items()}
    write_whole(folder / OPTIONS_FILE, lambda path: path.write_text(yaml.safe_dump(options)))


class _OptionsLoader(yaml.SafeLoader):
    """Safe, but reads the tuples that the published code wrote into its files."""


_OptionsLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)


def read_network_options(snapshot: Path) -> dict:
    """What rebuilds the network of a snapshot: the keyword arguments of `DeeplabMulti`.

    Raises:
        UserError: `opts.yaml` is not beside the snapshot, is no YAML, or lacks a flag of the network.
    """
    path = snapshot.parent / OPTIONS_FILE
    try:
        options = yaml.load(path.read_text(encoding="utf-8"), _OptionsLoader)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; it must lie beside the snapshot (training writes it)"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as the flags of a training ({error})") from error
    if not isinstance(options, dict):
        raise UserError(f"{path}: holds no flags; it must be the file that training wrote")
    for name in NETWORK_OPTIONS:
        if name not in options:
            raise UserError(f"{path}: lacks {name}; it must be the file that training wrote")
    return {name: options[name] for name in NETWORK_OPTIONS} | {"arch": options.get("arch", "resnet101")}
