"""The endless, reproducible order of training samples.

Sample k of a stream depends on the seed and on k alone: not on the number of workers, nor on where a run
was started.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dataset.base import SegmentationDataset
from dataset.files import DataError

ORDER, DRAWS = range(2)  # what a seed is used for


class TrainingStream(Dataset):
    """Positions 0 ... length-1 of a stream that goes through the data set in a new order every epoch."""

    def __init__(self, dataset: SegmentationDataset, length: int, seed: tuple[int, ...]):
        self.dataset, self.length, self.seed = dataset, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict | DataError:
        epoch, place = divmod(position, len(self.dataset))
        index = _epoch_order(len(self.dataset), self.seed, epoch)[place]
        try:
            return self.dataset.sample(int(index), np.random.default_rng((*self.seed, DRAWS, position)))
        except DataError as error:
            # Raised in a worker it would reach the user as a traceback, so it travels as a value.
            return error


@lru_cache(maxsize=2)
def _epoch_order(length: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    return np.random.default_rng((*seed, ORDER, epoch)).permutation(length)


class ShardedBatches(Sampler):
    """Positions 0 ... length-1 in batches; of each batch the part that is one process's.

    Args:
        length: number of items.
        batch_size: of all processes together.
        shard: what part of so many items is this process's.
    """

    def __init__(self, length: int, batch_size: int, shard: Callable[[int], range]):
        self.length, self.batch_size, self.shard = length, batch_size, shard

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.length, self.batch_size):
            part = self.shard(min(self.batch_size, self.length - start))
            if part:  # of the last, smaller batch a process may get nothing
                yield [start + place for place in part]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def batches(
    dataset: Dataset, batch_size: int, workers: int, pin_memory: bool, shard: Callable[[int], range] = range
) -> Iterator[dict]:
    """The data set's items in order, in batches of `batch_size`, decoded by `workers` processes.

    `shard` says which of so many items are this process's where there are several.

    Raises:
        DataError: an item cannot be read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=ShardedBatches(len(dataset), batch_size, shard),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_single_thread,
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _collate(samples: list) -> dict | DataError:
    """Batches of tensors; `label` and `size` of whole images, which may differ, stay lists."""
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    whole = "size" in samples[0]
    apart = {key: [s.pop(key) for s in samples] for key in ("label", "size")} if whole else {}
    return default_collate(samples) | apart


def _single_thread(worker: int) -> None:
    """A worker is one of many processes: threads of its own would only compete."""
    torch.set_num_threads(1)
