"""Training output: messages and progress on the terminal, log.jsonl, validation.jsonl, TensorBoard."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from utils.atomic import atomic_write, fsync
from utils.distributed import SINGLE_PROCESS, Processes
from utils.errors import UserError

LOG_FILE = "log.jsonl"
VALIDATION_FILE = "validation.jsonl"
T = TypeVar("T")
log = logging.getLogger(__name__)


class BarHandler(logging.StreamHandler):
    """Writes log messages above a tqdm bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """As StreamHandler's."""
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def log_to_terminal(is_main: bool = True) -> None:
    """Send the messages of all modules to standard output; ranks other than 0 only report errors."""
    level = logging.INFO if is_main else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", handlers=[BarHandler(sys.stdout)], force=True)


def progress(items: Iterable[T], total: int, processes: Processes = SINGLE_PROCESS) -> Iterator[T]:
    """The items of this rank's shard, with rank 0's progress bar if standard error is a terminal."""
    mine = len(processes.shard(total))
    return tqdm(items, total=mine, unit="image", disable=None if processes.is_main else True)


class ProgressLine:
    """Iteration, losses, rates, speed and time left, one message per `show`.

    Args:
        start, total: the first iteration and the total number of iterations.
    """

    def __init__(self, start: int, total: int):
        self.total = total
        self.last_time, self.last_iteration = time.monotonic(), start - 1

    def show(self, i_iter: int, losses: Mapping[str, float], rates: Mapping[str, float]) -> None:
        """Show the losses of iteration `i_iter` that are not 0, and its learning rates."""
        terms = [f"{name} {value:.3g}" for name, value in losses.items() if value]
        terms = "  ".join(terms + [f"{name} {value:.1e}" for name, value in rates.items()])
        now = time.monotonic()
        speed = (i_iter - self.last_iteration) / max(now - self.last_time, 1e-9)
        self.last_time, self.last_iteration = now, i_iter
        left = tqdm.format_interval((self.total - 1 - i_iter) / speed)
        pace = f"{speed:.2f} it/s" if speed >= 1 else f"{1 / speed:.2f} s/it"
        log.info("%6d/%d  %s  %s  %s left", i_iter, self.total, terms, pace, left)


class Board:
    """A new TensorBoard event file, written by the calling thread.

    tensorboardX's `SummaryWriter` queues events for a thread, and its `flush` does not wait for that queue:
    after a kill, events from before the last save would be missing.

    Args:
        folder: one per run.
        start: the run resumes at this iteration; TensorBoard drops what earlier files hold from there on.
    """

    def __init__(self, folder: Path, start: int | None):
        folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{time.time_ns()}"  # two starts within a second get two files, sorted as they started
        self._file = EventsWriter(str(folder / "events"), suffix)
        self.paths = list(folder.glob(f"events*{suffix}"))
        if start is not None:
            self._write(step=start, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each named curve; `group/name` puts a curve into a group."""
        points = summary.Summary()
        for name, value in values.items():
            points.MergeFrom(summary.scalar(name.replace(" ", "_"), value))  # TensorBoard allows no spaces
        self._write(step=step, summary=points)

    def image(self, name: str, picture: Image.Image, step: int) -> None:
        """Add a picture."""
        self._write(step=step, summary=summary.image(name, np.asarray(picture), dataformats="HWC"))

    def fsync(self) -> None:
        """Wait until everything is on the disk, so that it survives a crash of the machine."""
        for path in self.paths:
            fsync(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content) -> None:
        self._file.write_event(Event(wall_time=time.time(), **content))
        self._file.flush()  # to the operating system, so that it survives the end of this process


class TrainingLog:
    """Everything a training reports. Resuming at `start` removes what was logged from there on.

    Args:
        folder: of `log.jsonl`, one object per line with `iteration`, losses and rates, and of
            `validation.jsonl`, one per measurement with `iteration`, `means` and the `iou` of each class, and
            with `--swa` both of the `average`.
        tensorboard: folder of TensorBoard's files, or None.
        start, total: the first iteration of this part of the run, and the total number.
        classes: their names.
        resumed: TensorBoard's files may hold an earlier part of this run.

    Raises:
        UserError: here or later, a file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        tensorboard: Path | None,
        start: int,
        total: int,
        classes: Sequence[str],
        resumed: bool = False,
    ):
        self.validation_file, self.classes, self.board = folder / VALIDATION_FILE, classes, None
        with _writing(folder / LOG_FILE):
            folder.mkdir(parents=True, exist_ok=True)
            _keep_before(folder / LOG_FILE, start)
            # A measurement after the last iteration may have been cut off; it is repeated.
            _keep_before(self.validation_file, start - 1 if start < total else total + 1)
            self.file = open(folder / LOG_FILE, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - see close
        if tensorboard:
            with _writing(tensorboard):
                self.board = Board(tensorboard, start if resumed and start < total else None)
        self.progress = ProgressLine(start, total)

    def write(
        self,
        i_iter: int,
        losses: dict[str, float],
        rates: dict[str, float],
        class_weight: Sequence[float],
    ) -> None:
        """Log iteration `i_iter`; the `val` of a target batch without a labelled pixel, 0, is left out."""
        losses = {name: loss for name, loss in losses.items() if name != "val" or loss > 0}
        with _writing(Path(self.file.name)):
            self.file.write(json.dumps({"iteration": i_iter, **losses, **rates}) + "\n")
            if self.board:
                weights = zip(self.classes, class_weight, strict=False)
                self.board.scalars(losses | rates | {f"class_weight/{c}": w for c, w in weights}, i_iter)
        self.progress.show(i_iter, losses, rates)

    def validated(self, iteration: int, result: dict) -> None:
        """Log a measurement of the validation set, as returned by `Validation.measure`."""
        lines = self.validation_file.read_text() if self.validation_file.is_file() else ""
        lines += json.dumps({"iteration": iteration, **result}) + "\n"
        with _writing(self.validation_file):
            if self.board:  # before the line, which keeps it from being measured again
                groups = {"validation": result["means"], "validation_iou": result["iou"]}
                if average := result.get("average"):
                    groups |= {"average": average["means"], "average_iou": average["iou"]}
                values = {f"{group}/{name}": v for group, part in groups.items() for name, v in part.items()}
                self.board.scalars({name: v for name, v in values.items() if v is not None}, iteration)
        atomic_write(self.validation_file, lambda tmp: tmp.write_text(lines))

    def validations(self) -> list[dict]:
        """The measurements so far."""
        lines = self.validation_file.read_text() if self.validation_file.is_file() else ""
        return [json.loads(line) for line in lines.splitlines()]

    def picture(self, i_iter: int, sheet: Image.Image) -> None:
        """Show a picture in TensorBoard."""
        if self.board:
            with _writing(self.board.paths[0]):
                self.board.image("training", sheet, i_iter)

    def fsync(self) -> None:
        """Wait until the log is on the disk: after a crash it must not be older than the saved state."""
        with _writing(Path(self.file.name)):
            os.fsync(self.file.fileno())
            if self.board:
                self.board.fsync()

    def close(self) -> None:
        """Close the files."""
        for file in filter(None, (self.file, self.board)):
            with suppress(OSError):  # on a full disk, which the write that failed has reported
                file.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of writing become one line; `path` is named if the error itself names no file."""
    try:
        yield
    except OSError as error:
        advice = "free space or choose another folder (--snapshot-dir, --log-dir)"
        name = error.filename or path
        raise UserError(f"{name}: cannot write the log ({error.strerror}); {advice}") from error


def _keep_before(path: Path, start: int) -> None:
    """Drop the lines from iteration `start` on, and a last line that was cut off."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["iteration"] < start:
                kept.append(line + "\n")
    atomic_write(path, lambda tmp: tmp.write_text("".join(kept), encoding="utf-8"))
