"""Leaving in good order when asked to: by SIGTERM, with which clusters announce an end, and by Ctrl-C."""

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST = 3.0  # seconds
SAVE_SECONDS = 60


class Stopped(Exception):
    """The run was asked to stop and has saved itself; the exit `status` is 128 + the signal's number."""

    def __init__(self, number: int, message: str):
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.status = 128 + number


class StopRequest:
    """Within its `with` block SIGTERM and SIGINT are only noted, in `number`, 0 until there was one.

    A second Ctrl-C leaves at once, without saving. What comes right behind the first one is the same request
    once more: torchrun passes on to its processes what the terminal or the cluster has sent them already.
    """

    def __init__(self):
        self.number = 0
        self._first = 0.0
        self._before = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._first = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first > SAME_REQUEST:
            raise KeyboardInterrupt

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def leave_stopping_to_the_main_process() -> None:
    """For a worker process: terminals and clusters signal all processes, but only the main one saves.

    Ctrl-C is passed over, and so is SIGTERM, for as long as a save may take.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(SAVE_SECONDS))
