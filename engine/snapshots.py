"""Snapshots of a training: network and discriminators, written whole."""

import re
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from utils.atomic import atomic_write

PARTS = ("", "_D1", "_D2")  # of a snapshot: network and discriminators


def save_snapshot(trainer: nn.Module, folder: Path, prefix: str, iteration: int) -> None:
    """`<prefix>_<iteration>.pth` with the network, `…_D1.pth` and `…_D2.pth` with the discriminators.

    Raises:
        UserError: the files cannot be written.
    """
    for suffix, module in zip(PARTS, (trainer.G, trainer.D1, trainer.D2), strict=True):
        save_tensors(folder / f"{prefix}_{iteration}{suffix}.pth", module.state_dict())


def save_tensors(path: Path, content: dict) -> None:
    """`torch.save`, whole or not at all; the same content gives the same bytes."""

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:  # by its name torch would write that into the file, too
            sink = _Sink(file)
            try:
                torch.save(content, sink)
            except RuntimeError as error:
                raise sink.failure or error from error

    atomic_write(path, write)


class _Sink:
    """Remembers why a write failed: of a full disk torch only says that positions differ."""

    def __init__(self, file: BinaryIO):
        self.file, self.failure = file, None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def remove_old_snapshots(folder: Path, prefix: str, keep: int, saved: int, spare: str) -> None:
    """Leave the last `keep` of the snapshots up to number `saved`, and those after it, another run's.

    The file `spare`, which others may need, is left too.
    """
    name = re.compile(rf"{re.escape(prefix)}_(\d+)\.pth")
    numbers = sorted(int(found[1]) for path in folder.iterdir() if (found := name.fullmatch(path.name)))
    for number in [number for number in numbers if number <= saved][:-keep]:
        for suffix in reversed(PARTS):  # the network last: by its name a removal cut short is found again
            path = folder / f"{prefix}_{number}{suffix}.pth"
            if not Path(spare).exists() or not path.exists() or not path.samefile(spare):
                path.unlink(missing_ok=True)
