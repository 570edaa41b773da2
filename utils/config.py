"""The flags of an earlier run, from its `opts.yaml`: `--config` repeats it, `--resume` goes on with it."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dataset.yaml_file import shorten
from utils import flag_types
from utils.errors import UserError
from utils.opts_file import OF_THE_CALL, OPTIONS_FILE, load_options

NO_FLAGS = ("classes",)  # what the file says beyond flags


def earlier_options(argv: list[str]) -> tuple[Path, dict] | None:
    """The file of flags that `--config` names, or `--resume` finds in `--snapshot-dir`, and what it holds.

    Raises:
        UserError: the file cannot be read as flags.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=flag_types.path)
    parser.add_argument("--resume", nargs="?", const="True", default="False")
    parser.add_argument("--snapshot-dir", type=flag_types.path, default="./snapshots/")
    try:
        call, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        return None  # the script's own parser will say so
    path = call.config
    if path and not os.path.isfile(path):
        raise UserError(f"--config {path}: no such file; name the opts.yaml in an earlier --snapshot-dir")
    if path is None and call.resume.lower() not in ("false", "no", "off", "0"):
        written = call.snapshot_dir / OPTIONS_FILE
        path = written if written.is_file() else None
    return None if path is None else (path, load_options(path))


def as_arguments(options: dict, parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Options as the command line that gives them, and the names that are no flags of `parser`."""
    options = {name: value for name, value in options.items() if name not in (*NO_FLAGS, *OF_THE_CALL)}
    if "precision" in options:
        options.pop("fp16", None)  # which only says the same
    if options.get("num_steps_stop") == options.get("num_steps"):
        options.pop("num_steps_stop", None)  # the default, which follows --num-steps
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    given = {name: value for name, value in options.items() if name in flags and value is not None}
    for name, value in given.items():
        if not all(isinstance(one, str | int | float) for one in _parts(value)):
            parser.error(f"{name} is {shorten(value)}, which no flag takes")
    spelled = [f"{flags[name]}={','.join(map(str, _parts(value)))}" for name, value in given.items()]
    return spelled, [str(name) for name in options if name not in flags]


def _parts(value: object) -> Sequence:
    return value if isinstance(value, list | tuple) else (value,)
