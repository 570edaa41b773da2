"""The reproducible order of training samples, and batches from worker processes.

Sample k of a stream depends only on the seed and k, not on the number of workers or on where a run started.
"""

import multiprocessing
import resource
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from dataset.base import SegmentationDataset
from dataset.images import DataError

ORDER, DRAWS, WEIGHTED, RARE = range(4)  # the uses of a seed
FILES_PER_WORKER = 8  # pipes, and the tensors of the batches that wait
SPARE_FILES = 32  # for what else a run has open, such as images, snapshots and logs
SHARED_MEMORY = "/dev/shm"  # where worker processes put their batches


class TrainingStream(Dataset):
    """Training samples in a new order of the data set every epoch, or drawn independently.

    Args:
        dataset: where the samples come from.
        length: number of samples.
        seed: of the order and of each sample's draws.
        start: position of item 0, when a run resumes.
        weights: probability of each image, (N,).
        draw_rare: draws an image's index and what its crop is to show (`RareClasses.draw`).
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        length: int,
        seed: tuple[int, ...],
        start: int = 0,
        weights: torch.Tensor | None = None,
        draw_rare: Callable[[np.random.Generator], tuple] | None = None,
    ):
        self.dataset, self.length, self.seed, self.start = dataset, length, seed, start
        self.cumulative = None if weights is None else weights.cumsum(0).numpy()
        self.draw_rare = draw_rare

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> dict | DataError:
        position = self.start + item
        image, *wanted = self.draw(position)
        try:
            return self.dataset.sample(image, np.random.default_rng((*self.seed, DRAWS, position)), *wanted)
        except DataError as error:
            return error  # not raised: an exception in a worker would reach the user as a traceback

    def draw(self, position: int) -> tuple:
        """Index of the image at a position; with `draw_rare` also what its crop is to show."""
        if self.draw_rare:
            return self.draw_rare(np.random.default_rng((*self.seed, RARE, position)))
        if self.cumulative is not None:
            uniform = np.random.default_rng((*self.seed, WEIGHTED, position)).random()
            # Without the last sum, which may be a rounding below 1.
            return (int(np.searchsorted(self.cumulative[:-1], uniform, side="right")),)
        epoch, place = divmod(position, len(self.dataset))
        return (int(_epoch_order(len(self.dataset), self.seed, epoch)[place]),)

    def names_at(self, positions: Iterable[int]) -> list[str]:
        """Names of the images at these positions."""
        return [str(self.dataset.names[self.draw(position)[0]]) for position in positions]


class OrderedStream(TrainingStream):
    """A training sample of every image, in the order of the data set."""

    def draw(self, position: int) -> tuple:
        """As in `TrainingStream`."""
        return (position % len(self.dataset),)


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
    return load(
        dataset,
        workers,
        batch_sampler=sharded_positions(len(dataset), batch_size, shard),
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, worker_init),
    )


def load(dataset: Dataset | Sequence, workers: int, **options) -> Iterator:
    """What a `DataLoader` with these options yields, its workers started at once.

    Raises:
        DataError: now or later, a worker cannot go on, or it returned a `DataError`.
    """
    with _naming_worker_faults(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        loader = DataLoader(dataset, num_workers=workers, **options)
        if workers:
            _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            if 0 <= limit < (needed := SPARE_FILES + FILES_PER_WORKER * workers):  # negative: none
                raise DataError(
                    f"--num-workers {workers}: needs about {needed} open files, this shell allows {limit}; "
                    "raise the limit (ulimit -n 4096) or lower --num-workers, to 0 for none"
                )
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            # As many as torch creates, which complains of its own failure in a second message.
            [multiprocessing.Queue() for _ in range(workers + 2)]
        handler = signal.getsignal(signal.SIGCHLD)
        # Create the iterator now, not at the first batch: it draws from torch's generator.
        loaded = iter(loader)
        # torch's handler raises wherever this process is, even inside a step. A worker that was killed is
        # noticed where its batch is waited for, within five seconds.
        signal.signal(signal.SIGCHLD, handler)
    return _raise_errors(loaded)


def _raise_errors(loaded: Iterator) -> Iterator:
    try:
        while True:
            with _naming_worker_faults():
                batch = next(loaded, None)
            if batch is None:
                return
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        # Now, not at exit: then they would be ended by SIGTERM, which `worker_init` may have disabled.
        if hasattr(loaded, "_shutdown_workers"):
            loaded._shutdown_workers()


@contextmanager
def _naming_worker_faults() -> Iterator[None]:
    """Turn what ends worker processes, or keeps them from starting, into a `DataError` of one line.

    An error within a worker arrives with the text of its traceback.
    """
    try:
        yield
    except (OSError, RuntimeError, EOFError) as error:
        text = str(error)
        if "Too many open files" in text or "ancillary data" in text:
            advice = "too many open files; raise the limit (ulimit -n 4096) or lower --num-workers"
        elif "shared memory" in text or "No space left on device" in text:
            advice = (
                f"{SHARED_MEMORY} is full (df -h shows its size); make it larger, in a container with docker "
                "run --shm-size 8g, or give --num-workers 0"
            )
        elif "exited unexpectedly" in text or isinstance(error, EOFError | ConnectionError):
            advice = (
                "a decoding process was killed, as systems do when memory runs out; lower --num-workers, or "
                f"enlarge {SHARED_MEMORY}"
            )
        elif isinstance(error, OSError) and error.errno and not error.filename:
            advice = f"cannot start decoding processes ({error.strerror}); lower --num-workers"
        else:
            raise
        raise DataError(f"--num-workers: {advice}") from error


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
