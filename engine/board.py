"""TensorBoard's files, written by the thread that trains.

tensorboardX's own `SummaryWriter` hands its records to a thread, and its `flush` does not wait for them: of a
run that is killed after a save, some from before the save would be lost.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from utils.atomic import fsync
from utils.errors import UserError


class Board:
    """A new file in a folder of TensorBoard's.

    Args:
        folder: one for each run, made if it is not there.
        start: a run goes on at this iteration; what earlier files have from it on no longer counts.

    Raises:
        UserError: here or at any time later, it cannot be written.
    """

    def __init__(self, folder: Path, start: int | None):
        self.folder, self._suffix = folder, f".{os.getpid()}"
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            # Two starts within a second are two files.
            self._file = EventsWriter(str(folder / "events"), self._suffix)
        if start is not None:
            self._write(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves by their names; `group/name` stands in a group."""
        points = summary.Summary()
        for name, value in values.items():
            points.MergeFrom(summary.scalar(name.replace(" ", "_"), value))  # TensorBoard has no spaces
        self._write(Event(step=step, summary=points))

    def image(self, name: str, picture: Image.Image, step: int) -> None:
        """A picture."""
        self._write(Event(step=step, summary=summary.image(name, np.asarray(picture), dataformats="HWC")))

    def flush(self) -> None:
        """Hand everything to the system, where it survives the end of this process."""
        with self._writing():
            self._file.flush()

    def fsync(self) -> None:
        """Wait until it survives a crash of the machine too."""
        self.flush()
        with self._writing():
            for path in self.folder.glob(f"events*{self._suffix}"):
                fsync(path)

    def close(self) -> None:
        """Flush and close the file."""
        with self._writing():
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._writing():
            self._file.write_event(event)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{error.filename or self.folder}: cannot write the log ({error.strerror}); free space, "
                "choose another --log-dir or give --tensorboard False"
            ) from error
