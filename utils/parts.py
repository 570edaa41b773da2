"""Work on whole images in parts that a CPU's cache holds."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CACHED_PIXELS = 1 << 15  # with the temporary results of counting them


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """For work on a CPU too small for several threads: beside decoding processes these mostly wait in line,
    and between two operations they keep a core busy with waiting. Another device is left alone.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cached_parts(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Maps of one shape, part by part and then flat, with one thread for each; a GPU takes them whole."""
    device = maps[0].device
    if device.type != "cpu":
        yield maps
        return
    with one_thread(device):
        yield from zip(*(values.flatten().split(CACHED_PIXELS) for values in maps), strict=True)
