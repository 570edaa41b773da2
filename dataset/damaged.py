"""Files that cannot be used: the run stops, or they are named once, counted and passed over."""

from collections.abc import Iterable
from threading import Lock

from dataset.images import DataError


class Damaged:
    """The damaged files of a run.

    Args:
        limit: so many are passed over before the next one stops the run; None: the first one does.
        known: those of the part of the run before a resume.
    """

    def __init__(self, limit: int | None = None, known: Iterable[str] = ()):
        self.limit = limit
        self._lines = {_file(line): line for line in known}
        self._lock = Lock()  # checks run in threads

    @property
    def skipping(self) -> bool:
        """Whether damaged files are passed over."""
        return self.limit is not None

    @property
    def lines(self) -> list[str]:
        """What was said of each of them, in the order of their names."""
        return [self._lines[file] for file in sorted(self._lines)]

    def knows(self, line: str) -> bool:
        """Whether the file that a line is about was met before."""
        return _file(line) in self._lines

    def meet(self, line: str) -> bool:
        """Count a file in, of which `line` says what is wrong; whether it is the first time.

        Raises:
            DataError: the run is to stop.
        """
        if self.limit is None:
            raise DataError(line)
        with self._lock:
            first = _file(line) not in self._lines
            self._lines[_file(line)] = line
            if len(self._lines) > self.limit:
                raise DataError(f"{line} (more than --max-damaged {self.limit} files cannot be used)")
        return first


def _file(line: str) -> str:
    """The path that every line begins with: one file may be found out twice, in different words."""
    return line.partition(": ")[0]
