"""Snapshots of a training, and run.yaml: the command, code and libraries that produced a folder."""

import datetime
import io
import platform
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from importlib import metadata
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from dataset.yaml_file import load_yaml
from utils.atomic import atomic_write
from utils.errors import UserError
from utils.options import spelled_options

PARTS = ("", "_D1", "_D2", "_teacher")  # of a snapshot: network, discriminators, teacher
AVERAGE = "_average"
PICTURES = "pictures"  # subfolder of the snapshot folder
RECORD_FILE = "run.yaml"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "kornia-rs", "isal", "tensorboardX")
PROJECT = Path(__file__).resolve().parent.parent


def save_snapshot(trainer: nn.Module, folder: Path, prefix: str, number: int) -> Path:
    """Save `<prefix>_<number>.pth` (network); returns its path.

    Discriminators go to `…_D1.pth` and `…_D2.pth`, unless this training leaves them as they were drawn, and
    the teacher of an online self-training to `…_teacher.pth`.

    Raises:
        UserError: a tensor is not finite, or a file cannot be written.
    """
    check_finite(trainer.state_dict(), number)
    for k in (0, *trainer.adversary.trained):
        module = (trainer.G, trainer.D1, trainer.D2)[k]
        save_tensors(folder / f"{prefix}_{number}{PARTS[k]}.pth", module.state_dict())
    if teacher := getattr(trainer, "teacher_snapshot", dict)():
        save_tensors(folder / f"{prefix}_{number}{PARTS[-1]}.pth", teacher)
    return folder / f"{prefix}_{number}.pth"


def check_finite(tensors: dict[str, Tensor], iteration: int) -> None:
    """Keep broken weights from overwriting good ones; synchronises with the device once.

    Raises:
        UserError: a tensor has a value that is not finite.
    """
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    if not all(finite):
        raise UserError(
            f"iteration {iteration}: {list(tensors)[finite.index(False)]} is not finite, so the last good "
            "state was not overwritten; lower --learning-rate and continue from it with --resume"
        )


def save_tensors(path: Path, content: dict) -> None:
    """`torch.save` as an atomic write; equal content gives equal bytes."""
    # In memory first: given a path, torch records it inside the archive, and hides why writing failed.
    archive = io.BytesIO()
    torch.save(content, archive)
    atomic_write(path, lambda tmp: tmp.write_bytes(archive.getbuffer()))


def remove_old_snapshots(
    folder: Path, prefix: str, keep: int, saved: int, spare: str, parts: tuple[str, ...] = PARTS
) -> None:
    """Keep the last `keep` snapshots up to number `saved`; later ones belong to an earlier run and stay.

    Args:
        spare: a file that is never removed, the snapshot this training started from.
        parts: ends of the names of a snapshot's files.
    """
    pattern = re.compile(rf"{re.escape(prefix)}_(\d+){parts[0]}\.pth")
    numbers = sorted(int(found[1]) for path in folder.iterdir() if (found := pattern.fullmatch(path.name)))
    for number in [number for number in numbers if number <= saved][:-keep]:
        for suffix in reversed(parts):  # network file last, so that an interrupted removal is found again
            path = folder / f"{prefix}_{number}{suffix}.pth"
            if not Path(spare).exists() or not path.exists() or not path.samefile(spare):
                path.unlink(missing_ok=True)


def record_start(folder: Path, iteration: int) -> None:
    """Append this start of a training to `run.yaml`; a training that starts afresh replaces the file."""
    _append_record(folder, {"started": _now(), "iteration": iteration}, keep=iteration > 0)


def record_result(folder: Path, args: Namespace, **more: str | None) -> None:
    """Append finished predictions to `run.yaml`: when, every flag with the value used, and `more`."""
    _append_record(folder, {"finished": _now(), "flags": used_flags(args)} | more)


def used_flags(args: Namespace) -> dict:
    """Every flag with the value that was used, as on the command line."""
    return {name: _spelled(value) for name, value in spelled_options(args).items()}


def result_flags(folder: Path) -> dict:
    """The flags of the latest predictions in a folder, as `record_result` wrote them; empty if unknown."""
    entries = read_entries(folder / RECORD_FILE)
    flags = entries[-1].get("flags") if entries else {}
    return flags if isinstance(flags, dict) else {}


def read_entries(path: Path) -> list[dict]:
    """The entries of a record; those that cannot be read are left out."""
    try:
        entries = load_yaml(path)
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def write_entries(path: Path, entries: list[dict]) -> None:
    """Write a record, its last entry with the time, the command and the environment."""
    text = yaml.safe_dump([*entries[:-1], entries[-1] | environment()], sort_keys=False)
    atomic_write(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def _spelled(value: object) -> object:
    """A flag's value as on the command line."""
    if isinstance(value, list | dict):
        return ",".join(map(str, value))
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _append_record(folder: Path, entry: dict, keep: bool = True) -> None:
    path = folder / RECORD_FILE
    write_entries(path, [*(read_entries(path) if keep else []), entry])


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment() -> dict:
    """The command line, the revision of the code, and the versions of the libraries and the hardware."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "threads": torch.get_num_threads(),
    }


def _revision() -> str | None:
    """The commit of this code, with `-dirty` after local changes; None outside a repository."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
