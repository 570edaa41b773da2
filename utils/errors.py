"""What ends a run: errors that the user can fix, and signals."""

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

BAD_INPUT = 2  # exit status
# Other ranks wait this long before printing. If rank 0 fails for the same reason, torchrun ends them first
# and the user sees one line instead of eight.
RANK_DELAY = 5.0  # seconds
SAME_REQUEST = 3.0  # seconds
SAVE_SECONDS = 60  # a save takes less


class UserError(Exception):
    """One line that names the file or flag and says what to do."""


class Stopped(Exception):
    """A signal stopped the run, which is saved; the script exits with `status`, 128 + the signal number."""

    def __init__(self, signum: int, message: str):
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.status = 128 + signum


class StopRequest:
    """Context manager that records SIGTERM (sent before preemption) and Ctrl-C in `signum`, 0 until then.

    A second Ctrl-C interrupts at once, without saving. One that follows within `SAME_REQUEST` seconds is a
    repeat of the first: torchrun forwards signals that its processes have already received.
    """

    def __init__(self):
        self.signum = 0
        self._received = 0.0
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {n: signal.signal(n, self._record) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _record(self, signum: int, frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._received = signum, time.monotonic()
        elif signum == signal.SIGINT and time.monotonic() - self._received > SAME_REQUEST:
            raise KeyboardInterrupt

    def __exit__(self, *_) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)


def ignore_stop_signals() -> None:
    """Worker init of a DataLoader: keep decoding while the main process saves.

    Terminals and clusters signal every process. Workers ignore Ctrl-C, and SIGTERM while a save may take.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: signal.alarm(SAVE_SECONDS))


def exit_with_error(line: str, status: int = BAD_INPUT) -> NoReturn:
    """Print one line on standard error and exit with a status."""
    rank = int(os.environ.get("RANK", "0"))
    if rank and status == BAD_INPUT:
        time.sleep(RANK_DELAY)
        line = f"[process {rank}] {line}"
    with suppress(OSError):  # a closed pipe
        print(printable(line), file=sys.stderr, flush=True)
    sys.exit(status)


def printable(text: str) -> str:
    """Escape whatever could control a terminal: file names are untrusted."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
