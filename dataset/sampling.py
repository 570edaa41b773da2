"""The reproducible order of training samples, and batches from worker processes.

Sample k of a stream depends only on the seed and k, not on the number of workers or on where a run started.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from dataset.base import SegmentationDataset
from dataset.images import DataError

ORDER, DRAWS = range(2)  # the uses of a seed


class TrainingStream(Dataset):
    """Training samples in a new order of the data set every epoch.

    Args:
        dataset: where the samples come from.
        length: number of samples.
        seed: of the order and of each sample's draws.
        start: position of item 0, when a run resumes.
    """

    def __init__(self, dataset: SegmentationDataset, length: int, seed: tuple[int, ...], start: int = 0):
        self.dataset, self.length, self.seed, self.start = dataset, length, seed, start

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict | DataError:
        position = self.start + item
        draws = np.random.default_rng((*self.seed, DRAWS, position))
        try:
            return self.dataset.sample(self.image_at(position), draws)
        except DataError as error:
            return error  # not raised: an exception in a worker would reach the user as a traceback

    def image_at(self, position: int) -> int:
        """Index of the image at a position."""
        epoch, place = divmod(position, len(self.dataset))
        return int(_epoch_order(len(self.dataset), self.seed, epoch)[place])

    def names_at(self, positions: Iterable[int]) -> list[str]:
        """Names of the images at these positions."""
        return [str(self.dataset.names[self.image_at(position)]) for position in positions]


@lru_cache(maxsize=2)
def _epoch_order(length: int, seed: tuple[int, ...], epoch: int) -> np.ndarray:
    return np.random.default_rng((*seed, ORDER, epoch)).permutation(length)


def sharded_positions(length: int, batch_size: int, shard: Callable[[int], range]) -> Iterator[list[int]]:
    """Positions 0 to `length`-1 in batches, each reduced to the part of this process.

    Args:
        length: number of items.
        batch_size: over all processes.
        shard: n -> the range of this process among the n items of a batch.
    """
    for start in range(0, length, batch_size):
        part = shard(min(batch_size, length - start))
        if part:  # empty if the last batch is smaller than the number of processes
            yield [start + place for place in part]


def batches(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    pin_memory: bool,
    shard: Callable[[int], range] = range,
    worker_init: Callable[[], None] | None = None,
) -> Iterator[dict]:
    """The data set's items in order, in batches, loaded by `workers` processes.

    Args:
        batch_size, shard: as in `sharded_positions`.
        worker_init: called in each worker when it starts. `close()` the returned iterator to end the workers.

    Raises:
        DataError: an item cannot be read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=sharded_positions(len(dataset), batch_size, shard),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, worker_init),
    )
    # Create the iterator now, not at the first batch: it draws from torch's generator.
    return _raise_errors(iter(loader))


def _raise_errors(loaded: Iterator) -> Iterator[dict]:
    try:
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"--num-workers: a worker process was killed ({error}); if memory is short, use fewer workers"
        ) from error
    finally:
        # Now, not at exit: then they would be ended by SIGTERM, which `worker_init` may have disabled.
        if hasattr(loaded, "_shutdown_workers"):
            loaded._shutdown_workers()


def _collate(samples: list) -> dict | DataError:
    """A batch of tensors; of whole images, whose sizes differ, `label` and `size` stay lists."""
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    whole = "size" in samples[0]
    lists = {key: [s.pop(key) for s in samples] for key in ("label", "size")} if whole else {}
    return default_collate(samples) | lists


def _start_worker(worker_init: Callable[[], None] | None, worker: int) -> None:
    torch.set_num_threads(1)  # one of many processes: threads of its own would only compete
    if worker_init:
        worker_init()
