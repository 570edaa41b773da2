"""The endless, reproducible order of training samples.

Sample k of a stream depends on the seed and on k alone: not on the number of workers, nor on where a run
was started.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dataset.base import SegmentationDataset
from dataset.images import DataError

ORDER, DRAWS = range(2)  # what a seed is used for
REPLACEMENTS = 20  # images tried in place of a damaged one


class TrainingStream(Dataset):
    """Positions of a stream that goes through the data set in a new order every epoch.

    Args:
        dataset: what is shown.
        length: number of samples.
        seed: of the order and of each sample's draws.
        start: the position that item 0 is at, where a run goes on.
        replace: show another image in place of one that cannot be used; its item's `damaged` says which.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        length: int,
        seed: tuple[int, ...],
        start: int = 0,
        replace: bool = False,
    ):
        self.dataset, self.length, self.seed, self.start = dataset, length, seed, start
        self.attempts = REPLACEMENTS if replace else 1

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict | DataError:
        position, damaged = self.start + item, []
        for attempt in range(self.attempts):
            draws = np.random.default_rng((*self.seed, DRAWS, position))
            try:
                return self.dataset.sample(self.image_at(position, attempt), draws) | {"damaged": damaged}
            except DataError as error:
                # Raised in a worker it would reach the user as a traceback, so it travels as a value.
                damaged.append(str(error))
        return DataError(damaged[-1])

    def image_at(self, position: int, attempt: int = 0) -> int:
        """The index of the image at a position, or of the one that takes the place of damaged ones."""
        images = len(self.dataset)
        epoch, place = divmod(position, images)
        return int(_epoch_order(images, self.seed, epoch)[(place + attempt) % images])

    def names_at(self, positions: Iterable[int]) -> list[str]:
        """The names of the images at some positions."""
        return [self.dataset.names[self.image_at(position)] for position in positions]


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
    dataset: Dataset,
    batch_size: int,
    workers: int,
    pin_memory: bool,
    shard: Callable[[int], range] = range,
    worker_init: Callable[[], None] | None = None,
) -> Iterator[dict]:
    """The data set's items in order, in batches of `batch_size`, decoded by `workers` processes.

    `shard` says which of so many items are this process's where there are several. `worker_init` is called
    in each worker as it starts; `close()` of the result ends them.

    Raises:
        DataError: an item cannot be read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=ShardedBatches(len(dataset), batch_size, shard),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, worker_init),
    )
    # Here and not with the first batch, because it draws from torch's generator.
    return _raising(iter(loader))


def _raising(loaded: Iterator) -> Iterator[dict]:
    """Batches of the data; what a worker could not read is raised."""
    try:
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"--num-workers: a decoding process was ended from outside ({error}); this machine may be short "
            "of memory, then fewer help"
        ) from error
    finally:
        # Not left to the end of the program, which asks by a SIGTERM that these workers would pass over.
        if hasattr(loaded, "_shutdown_workers"):
            loaded._shutdown_workers()


def _collate(samples: list) -> dict | DataError:
    """Batches of tensors; what differs in number or size stays lists.

    These are `damaged` of training samples, all in one, and `label` and `size` of whole images.
    """
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    damaged = [line for sample in samples for line in sample.pop("damaged", ())]
    whole = "size" in samples[0]
    apart = {key: [s.pop(key) for s in samples] for key in ("label", "size")} if whole else {}
    return default_collate(samples) | apart | {"damaged": damaged}


def _start_worker(worker_init: Callable[[], None] | None, worker: int) -> None:
    torch.set_num_threads(1)  # one of many processes: threads of its own would only compete
    if worker_init:
        worker_init()
