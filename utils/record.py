"""What it takes to repeat a run, beside its flags: the command, the code and the libraries it ran with."""

import datetime
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
import yaml

from utils.errors import UserError
from utils.files import write_whole
from utils.safe_yaml import load_yaml

RECORD_FILE = "run.yaml"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "kornia-rs", "tensorboardX")
PROJECT = Path(__file__).resolve().parent.parent


def record_start(folder: Path, iteration: int) -> None:
    """Add an entry to `run.yaml`: when, what command, at which iteration, and `surroundings`."""
    path = folder / RECORD_FILE
    try:
        earlier = load_yaml(path) if path.is_file() and iteration else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, nothing else needs it") from error
    entry = {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "iteration": iteration,
        **surroundings(),
    }
    text = yaml.safe_dump([*(earlier if isinstance(earlier, list) else []), entry], sort_keys=False)
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def surroundings() -> dict:
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
