"""Write a file completely or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError

LOCK_FILE = ".lock"
# Decoding processes of a run that was killed may keep its lock for the five seconds until they notice.
PATIENCE = 6.0  # seconds


def atomic_write(path: Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then move it to `path`.

    Args:
        durable: fsync, so that even a crash of the machine leaves the old or the new file; False is faster,
            for files that are cheap to make again.

    Raises:
        UserError: the folder is not writable or the disk is full; `path` keeps its previous content.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(tmp)
        if durable:
            fsync(tmp)
        os.replace(tmp, path)
        if durable:
            fsync(path.parent)  # the new name too
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "free space or choose another folder (its previous content is untouched)"
        raise UserError(f"{path}: cannot write ({reason}); {advice}") from error
    finally:
        with suppress(OSError):  # it does not exist
            tmp.unlink()


def check_kind(flag: str, path: Path, *suffixes: str) -> None:
    """Refuse to replace a file of another kind.

    Raises:
        UserError: the file exists, and its name ends in none of the suffixes.
    """
    if path.is_file() and path.suffix.lower() not in suffixes:
        raise UserError(f"{flag} {path}: is there already and no {suffixes[0]} file; choose another name")


@contextmanager
def lock_folder(folder: Path, flag: str) -> Iterator[None]:
    """Keep other processes that lock the folder out of it; the lock falls with its process.

    Where it cannot be locked, the files that are to be written there will show why, or need no lock.

    Raises:
        UserError: another process has locked it.
    """
    path, new = folder / LOCK_FILE, not folder.is_dir()
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise UserError(f"{flag} {folder}: another run is writing to this folder; wait for its end") from None
    except OSError:
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)  # before the release: another run may have the next one
            lock.release()
        if new:
            with suppress(OSError):  # it holds files
                folder.rmdir()


def resolve_path(path: Path | str) -> Path:
    """The absolute path without symbolic links; unlike `Path.resolve`, accepts links that form a loop."""
    return Path(os.path.realpath(path))


def remove_partial_files(folder: Path) -> None:
    """Remove what `atomic_write` left in the folder when its process was killed.

    Not in subfolders, where other runs may be writing.
    """
    for tmp in folder.glob(".*.part"):
        tmp.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
