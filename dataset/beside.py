"""Checks of a large data set's files that run beside the training instead of before it."""

import time
from collections.abc import Callable
from threading import Event, Thread

THREADS = 4  # opening files waits for the disk or the network
CLOSING_SECONDS = 1.0  # at most, for a thread that waits for a disk which does not answer


class ChecksBeside:
    """Checks that threads run from the first `poll` on, which raises what they have found.

    The first poll comes after the workers are forked, because a process that is to fork should have no
    threads. As a context manager it stops them however the training ends.
    """

    def __init__(self):
        self._checks: list[tuple[Callable[[int], object], int]] = []
        self._threads: list[Thread] = []
        self._stop = Event()
        self._errors: list[Exception] = []

    def add(self, check: Callable[[int], object], count: int) -> None:
        """Have `check(i)` called for each i below `count`; it raises a `DataError`."""
        self._checks.append((check, count))

    def poll(self) -> None:
        """Start at the first call; raise what has been found."""
        if not self._threads and self._checks:
            self._threads = [Thread(target=self._run, args=(k,), daemon=True) for k in range(THREADS)]
            for thread in self._threads:
                thread.start()
        if self._errors:
            raise self._errors[0]

    def finish(self) -> None:
        """Wait until everything is checked; raise what has been found."""
        self.poll()
        for thread in self._threads:
            thread.join()
        self.poll()

    def _run(self, thread: int) -> None:
        try:
            for check, count in self._checks:
                for index in range(thread, count, THREADS):
                    if self._stop.is_set():
                        return
                    check(index)
        except Exception as error:  # raised by the thread that polls; what is no DataError too
            self._errors.append(error)
            self._stop.set()

    def __enter__(self) -> "ChecksBeside":
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        until = time.monotonic() + CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
