"""The names of a data set's images, packed: a worker process neither copies nor touches 25,000 strings."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class Names(Sequence[str]):
    """An unchangeable list of names in one block of bytes.

    A list of strings is copied page by page into every forked worker that reads it, because reading
    an object writes its reference count; and it is sent string by string to a spawned one.
    """

    def __init__(self, names: Iterable[str]):
        # As the system has file names, which may hold bytes that are no UTF-8.
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return Names(self[i] for i in range(len(self))[index])
        place = range(len(self))[index]
        start, end = self._ends[place : place + 2]
        return self._bytes[start:end].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends[1:].tolist():
            yield self._bytes[start:end].decode("utf-8", "surrogateescape")
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self._bytes == other._bytes and np.array_equal(self._ends, other._ends)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)})"
