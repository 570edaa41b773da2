"""Writing a file so that it is whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path

from utils.errors import UserError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in `path`'s place.

    Raises:
        UserError: the folder cannot be written to or is full; what `path` held before is still there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise UserError(f"{path}: cannot write ({error}); free space or choose another folder") from error
    finally:
        if aside.exists():
            aside.unlink()
