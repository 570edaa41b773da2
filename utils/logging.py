"""What a run tells: progress lines, a line of JSON for programs, TensorBoard."""

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from tensorboardX import SummaryWriter
from torch import Tensor
from tqdm import tqdm

from utils.distributed import ALONE, Processes
from utils.errors import UserError

LOG_FILE = "log.jsonl"
T = TypeVar("T")
log = logging.getLogger(__name__)


def log_to_terminal(main: bool = True) -> None:
    """Messages of all modules on standard output, as they are; of several processes the main one speaks."""
    level = logging.INFO if main else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout, force=True)


class TrainingLog:
    """Losses and rates every `every` iterations; between them nothing waits for the device.

    Args:
        folder: of `log.jsonl`, one object a line with `iteration`, losses and rates.
        tensorboard: folder of TensorBoard's files, or None.
        total: iterations of the run, for the time left.
    """

    def __init__(self, folder: Path, tensorboard: Path | None, every: int, total: int):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = open(folder / LOG_FILE, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - see close
            self.board = SummaryWriter(str(tensorboard)) if tensorboard else None
        except OSError as error:
            raise UserError(f"{error.filename}: cannot write the log ({error.strerror})") from error
        self.every, self.total = every, total
        self.last_time, self.last_iteration = time.monotonic(), -1

    def step(self, i_iter: int, losses: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Record iteration `i_iter` if it is one to record.

        Raises:
            UserError: a loss is not finite.
        """
        if i_iter % self.every and i_iter != self.total - 1:
            return
        # All in one message: the only place where training waits for the device.
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        try:
            self.file.write(json.dumps({"iteration": i_iter, **values, **rates}) + "\n")
            if self.board:
                for name, value in (values | rates).items():
                    self.board.add_scalar(name, value, i_iter)
        except OSError as error:
            raise UserError(f"{self.file.name}: cannot be written ({error.strerror}); free space") from error
        broken = [name for name, value in values.items() if not math.isfinite(value) and name != "val"]
        if broken:
            raise UserError(
                f"iteration {i_iter}: the loss {broken[0]} is {values[broken[0]]}; lower --learning-rate or "
                "check the data (snapshots saved so far are untouched)"
            )
        log.info("%s", self._line(i_iter, values, rates["lr"]))

    def _line(self, i_iter: int, values: dict[str, float], rate: float) -> str:
        now = time.monotonic()
        speed = (i_iter - self.last_iteration) / max(now - self.last_time, 1e-9)
        self.last_time, self.last_iteration = now, i_iter
        left = int((self.total - 1 - i_iter) / speed)
        terms = "  ".join(f"{name} {value:.3g}" for name, value in values.items() if value)
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return f"{i_iter:>6}/{self.total}  {terms}  lr {rate:.2e}  {speed:.2f} it/s  {clock} left"

    def close(self) -> None:
        """Flush and close the files."""
        self.file.close()
        if self.board:
            self.board.close()


def progress(items: Iterable[T], total: int, processes: Processes = ALONE) -> Iterator[T]:
    """The items with a progress bar where the terminal can show one; of several processes the main one's."""
    mine = len(processes.shard(total))
    return tqdm(items, total=mine, unit="image", disable=None if processes.main else True)
