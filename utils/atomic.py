"""Writing a file so that it is whole or not there."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from utils.errors import UserError


def atomic_write(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """Let `write` fill a file beside `path`, then put it in `path`'s place.

    Args:
        durable: wait until the disk has it, so that not even a crash of the machine leaves half of it; for
            files that are cheap to make again, False saves the wait.

    Raises:
        UserError: the folder cannot be written to or is full; what `path` held before is still there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        if durable:
            fsync(aside)
        os.replace(aside, path)
        if durable:
            fsync(path.parent)  # the new name too
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot write ({reason}); free space or choose another folder (what it held before is "
            "untouched)"
        ) from error
    finally:
        with suppress(OSError):  # it was never there
            aside.unlink()


def resolve_path(path: Path | str) -> Path:
    """The absolute path without links; unlike `Path.resolve` no error where links lead in a circle."""
    return Path(os.path.realpath(path))


def remove_partial_files(folder: Path) -> None:
    """Take away what `atomic_write` was filling in the folder when its process was killed.

    Not in those below it, where other runs may be writing.
    """
    for aside in folder.glob(".*.part"):
        aside.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Wait until the disk has the file, or the names in the folder."""
    if path.is_dir() and os.name == "nt":  # which cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
