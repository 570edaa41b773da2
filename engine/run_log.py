"""What a run tells: progress, a line of JSON for programs, TensorBoard."""

import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from engine.board import Board
from engine.progress import ProgressLine, log_handler
from utils.atomic import atomic_write
from utils.distributed import SINGLE_PROCESS, Processes
from utils.errors import UserError

LOG_FILE = "log.jsonl"
VALIDATION_FILE = "validation.jsonl"
T = TypeVar("T")
log = logging.getLogger(__name__)


def log_to_terminal(main: bool = True) -> None:
    """Messages of all modules on standard output, as they are; of several processes the main one speaks."""
    level = logging.INFO if main else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[log_handler(sys.stdout)], force=True)


class TrainingLog:
    """Losses and rates every `every` iterations; between them nothing waits for the device.

    A run that goes on at iteration `start` takes away what an earlier part of it has written beyond that.

    Args:
        folder: of `log.jsonl`, one object a line with `iteration`, losses and rates, and of
            `validation.jsonl`, one a measurement with `iteration`, the means and the IoU of each class.
        tensorboard: folder of TensorBoard's files, or None.
        every: iterations between two lines.
        start, total: the first iteration of this part of the run and the number of all.
        classes: their names.
        resumed: TensorBoard's files may hold an earlier part of this run.
    """

    def __init__(
        self,
        folder: Path,
        tensorboard: Path | None,
        every: int,
        start: int,
        total: int,
        classes: Sequence[str],
        resumed: bool = False,
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _keep_before(folder / LOG_FILE, start)
            # The measurement that follows the last iteration may have been cut off; it is made again.
            _keep_before(folder / VALIDATION_FILE, start - 1 if start < total else total + 1)
            self.file = open(folder / LOG_FILE, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - see close
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot write the log ({error.strerror}); choose another folder"
            ) from error
        again = start if resumed and start < total else None
        self.board = Board(tensorboard, again) if tensorboard else None
        self.folder, self.every, self.total, self.classes = folder, every, total, classes
        self.waiting: list[tuple[int, Tensor]] = []  # losses and class weights that are still on the device
        self.names: list[str] = []
        self.progress = ProgressLine(start, total)

    def step(
        self, i_iter: int, losses: dict[str, Tensor], rates: dict[str, float], class_weight: Tensor
    ) -> None:
        """Note iteration `i_iter`, and write it if it is one to write.

        Raises:
            NotFinite: a loss of an iteration since the last line is not finite.
        """
        self.names = list(losses)
        values = torch.stack(list(losses.values()))
        self.waiting.append((i_iter, torch.cat([values, class_weight.to(values)])))
        self.progress.step(i_iter)
        if i_iter % self.every and i_iter != self.total - 1:
            return
        latest = self.check()
        values, weights = latest[: len(self.names)], latest[len(self.names) :]
        values = dict(zip(self.names, values, strict=True))
        try:
            self.file.write(json.dumps({"iteration": i_iter, **values, **rates}) + "\n")
            if self.board:
                scalars = values | rates
                scalars |= {f"class_weight/{c}": w for c, w in zip(self.classes, weights, strict=False)}
                self.board.scalars(scalars, i_iter)
                self.board.flush()
        except OSError as error:
            raise UserError(f"{self.file.name}: cannot be written ({error.strerror}); free space") from error
        self.progress.show(i_iter, values, rates)

    def check(self) -> list[float]:
        """Look at all losses that are still unseen; those of the latest iteration, then its class weights.

        All come in one message: the only place where training waits for the device.

        Raises:
            NotFinite: one is not finite.
        """
        if not self.waiting:
            return []
        rows = torch.stack([row for _, row in self.waiting]).tolist()
        iterations = [iteration for iteration, _ in self.waiting]
        self.waiting.clear()
        for iteration, row in zip(iterations, rows, strict=True):
            values = dict(zip(self.names, row, strict=False))
            # val is watched and not learned from; it is nan where no pixel of a batch has a label.
            if any(not math.isfinite(value) for name, value in values.items() if name != "val"):
                raise NotFinite(iteration, values)
        return rows[-1]

    def validated(self, iteration: int, result: dict) -> None:
        """Write a measurement of the validation set: `means` and `iou` as `Validation.measure` has them."""
        if self.board:
            groups = {"validation": result["means"], "validation_iou": result["iou"]}
            scalars = {f"{group}/{name}": v for group, part in groups.items() for name, v in part.items()}
            self.board.scalars({name: v for name, v in scalars.items() if v is not None}, iteration)
            self.board.flush()  # before the line, which keeps it from being measured again
        path = self.folder / VALIDATION_FILE
        lines = path.read_text(encoding="utf-8") if path.is_file() else ""
        line = json.dumps({"iteration": iteration, **result}) + "\n"
        atomic_write(path, lambda aside: aside.write_text(lines + line, encoding="utf-8"))

    def validations(self) -> list[dict]:
        """The measurements so far."""
        path = self.folder / VALIDATION_FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def picture(self, i_iter: int, sheet: Image.Image) -> None:
        """Show what the training sees and says in TensorBoard."""
        if self.board:
            self.board.image("training", sheet, i_iter)

    def fsync(self) -> None:
        """Wait until what was written would survive a crash of the machine: it is no older than the state."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if self.board:
            self.board.fsync()

    def close(self) -> None:
        """Flush and close the files."""
        self.progress.close()
        with suppress(OSError):  # on a full disk, of which the write that failed has told
            self.file.close()
        if self.board:
            with suppress(UserError):
                self.board.close()


class NotFinite(Exception):
    """An iteration with losses that are not all finite."""

    def __init__(self, iteration: int, losses: dict[str, float]):
        super().__init__(iteration, losses)
        self.iteration, self.losses = iteration, losses


def _keep_before(path: Path, start: int) -> None:
    """Of a file of JSON lines those of iterations before `start`, without a last one that was cut."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["iteration"] < start:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    atomic_write(path, lambda aside: aside.write_text("".join(kept), encoding="utf-8"))


def progress(items: Iterable[T], total: int, processes: Processes = SINGLE_PROCESS) -> Iterator[T]:
    """The items with a progress bar where the terminal can show one; of several processes the main one's."""
    mine = len(processes.shard(total))
    return tqdm(items, total=mine, unit="image", disable=None if processes.is_main else True)
