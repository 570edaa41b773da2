"""What it takes to repeat a run, beside its flags: the command, the code and the libraries it ran with."""

import datetime
import platform
import shlex
import subprocess
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path

import torch
import yaml

from dataset.yaml_file import load_yaml
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.flag_types import format_size

RECORD_FILE = "run.yaml"
PLAIN = (bool, int, float, str, type(None))  # what YAML holds as it is
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "kornia-rs", "isal", "tensorboardX")
PROJECT = Path(__file__).resolve().parent.parent


def record_start(folder: Path, iteration: int) -> None:
    """Add an entry to `run.yaml`: when, what command, at which iteration, and `environment`."""
    entry = {"started": _now(), "iteration": iteration, **environment()}
    _write(folder, [*(_earlier(folder) if iteration else []), entry])


def record_result(folder: Path, args: Namespace) -> None:
    """Add to `run.yaml` beside finished predictions: when, all flags as they were used, `environment`."""
    flags = {name: _spelled(name, value) for name, value in vars(args).items()}
    _write(folder, [*_earlier(folder), {"finished": _now(), "flags": flags, **environment()}])


def _spelled(name: str, value: object) -> object:
    """A flag's value as on the command line."""
    if name == "input_size":
        return format_size(value)
    if name == "weights" and isinstance(value, tuple):
        auxiliary, primary = value
        return f"{_number(primary)}:{_number(auxiliary)}"
    if isinstance(value, list | dict):
        return ",".join(_number(part) if isinstance(part, float) else str(part) for part in value)
    return value if type(value) in PLAIN else str(value)


def _number(value: float) -> str:
    """With all its digits."""
    return repr(value).removesuffix(".0")


def _earlier(folder: Path) -> list[dict]:
    path = folder / RECORD_FILE
    try:
        entries = load_yaml(path) if path.is_file() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, nothing else needs it") from error
    return entries if isinstance(entries, list) else []


def _write(folder: Path, entries: list[dict]) -> None:
    text = yaml.safe_dump(entries, sort_keys=False)
    atomic_write(folder / RECORD_FILE, lambda aside: aside.write_text(text, encoding="utf-8"))


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment() -> dict:
    """The command line, the revision of the code, and the versions of what it computes with."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "revision": revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "threads": torch.get_num_threads(),
    }


def revision() -> str | None:
    """The commit of this code, with `-dirty` where files differ from it; None without a repository."""
    try:
        found = subprocess.run(
            ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
