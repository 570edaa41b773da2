"""`--swa` and `--adaboost`: averages of the network, and sampling of the target by disagreement.

AdaBoost_Seg (arXiv 2103.15685); the arithmetic is in utils/averaging.py. Every `--swa_every` iterations, an
update takes the network into the average, estimates the average's BN statistics on the target's training
images, and gives these images new sampling weights. It draws from generators of its own and leaves the
network alone, so that with `--swa` a run's other files are those of a run without.
"""

import copy
import logging
import math
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Subset

from dataset import Adaptation, SegmentationDataset
from dataset.sampling import OrderedStream, TrainingStream, batches
from dataset.transforms import Size
from engine.snapshots import AVERAGE, check_finite, remove_old_snapshots, save_tensors
from utils.averaging import estimate_statistics, measure, new_average, update_weights
from utils.device import InPrecision, count_workers, to_device
from utils.errors import StopRequest, ignore_stop_signals
from utils.preprocess import to_network_input

STATISTICS, MEASURE, DROPOUT = range(2, 5)  # uses of the seed, after those of the two streams
log = logging.getLogger(__name__)


class Averaging:
    """The average of the networks so far, and the sampling weights of the target's images.

    Args:
        trainer: on its device, before `distribute`.
        target: the data set of the target stream.
        pair: the domains.
        args: flags of the training.
        stage2: whether it is a Stage II.
    """

    def __init__(
        self,
        trainer: nn.Module,
        target: SegmentationDataset,
        pair: Adaptation,
        args: Namespace,
        stage2: bool,
    ):
        self.trainer, self.target, self.pair, self.args = trainer, target, pair, args
        self.mirrors = not stage2 or pair.extra_passes.mirrored_in_stage2
        self.average = self.latest = new_average(trainer.G, args.ema)
        self.weights: Tensor | None = None  # (N,) float64; None: not yet updated
        self.iteration = -1  # of the last update

    def due(self, i_iter: int) -> bool:
        """Whether there is an update after iteration `i_iter` that has not been made yet."""
        if i_iter <= self.iteration:
            return False
        if i_iter == self.args.num_steps_stop - 1:
            return self.args.swa  # the sampler has no more images to draw
        return i_iter >= self.args.swa_start and i_iter % self.args.swa_every == 0

    def update(self, i_iter: int, stop: StopRequest) -> bool:
        """Update after iteration `i_iter`; False after a stop request, and the update stays due.

        All ranks call it. The last iteration's is no part of the state: a longer run would not make it.
        """
        args, last = self.args, i_iter == self.args.num_steps_stop - 1
        average, weights = copy.deepcopy(self.average), self.weights
        try:
            with torch.random.fork_rng(devices=self.trainer.device_ids):
                if args.swa:
                    average.update_parameters(self.trainer.G)
                    estimate_statistics(
                        InPrecision(average.module, args.precision),
                        (images for _, images in self._statistics_batches(i_iter, stop)),
                        self.trainer.processes,
                    )
                    if self.trainer.processes.is_main:
                        self._save(average, i_iter + 1 if last else i_iter)
                if args.adaboost and not last:
                    weights = self._new_weights(average, i_iter, stop)
        except _StopRequested:
            return False
        self.latest = average
        if not last:
            self.average, self.weights, self.iteration = average, weights, i_iter
        return True

    def network(self) -> nn.Module | None:
        """The latest average; None before the first."""
        return self.latest.module if self.latest.n_averaged else None

    def state(self) -> dict:
        """What the next updates and the target stream depend on."""
        average = self.average.state_dict() if self.args.swa else None
        return {"average": average, "weights": self.weights, "iteration": self.iteration}

    def load_state(self, state: dict) -> None:
        """Restore what `state` returned; weights of another number of images are dropped.

        Raises:
            RuntimeError, ValueError, LookupError, TypeError: it does not fit the network.
        """
        average, weights, self.iteration = state["average"], state["weights"], int(state["iteration"])
        if average and self.args.swa:
            self.average.load_state_dict(average)
        self.weights = weights if weights is not None and len(weights) == len(self.target) else None

    def _save(self, average: AveragedModel, number: int) -> None:
        folder, prefix, keep = self.args.snapshot_dir, self.pair.source.prefix, self.args.keep
        path, tensors = folder / f"{prefix}_{number}{AVERAGE}.pth", average.module.state_dict()
        check_finite(tensors, number)
        save_tensors(path, tensors)
        if keep:
            remove_old_snapshots(folder, prefix, keep, number, self.args.restore_from, (AVERAGE,))
        log.info("Saved %s, the average of %d networks", path, average.n_averaged)

    def _new_weights(self, average: AveragedModel, i_iter: int, stop: StopRequest) -> Tensor:
        args, images = self.args, len(self.target)
        if args.recent or not args.swa:  # the training's network, in a copy without SyncBatchNorm
            average = new_average(average.module)
            average.update_parameters(self.trainer.G)
        network = InPrecision(average.module, args.precision)
        v = torch.zeros(images, dtype=torch.float64)
        for first, batch in self._measured_batches(i_iter, stop):
            dropout = np.random.default_rng((args.random_seed, DROPOUT, i_iter, first))
            torch.manual_seed(int(dropout.integers(2**63)))
            v[first : first + len(batch)] = measure(network, batch, args.crop_size, args.adatype).cpu()
        v = self.trainer.processes.all_reduce_sum(v)
        weights = torch.full_like(v, 1 / images) if self.weights is None else self.weights
        weights = update_weights(weights, v, args.adaboost_temperature)
        rarest, oftenest = images * weights.min(), images * weights.max()
        log.info("Target images are drawn %.2f to %.2f times as often as uniformly", rarest, oftenest)
        return weights

    def _statistics_batches(self, i_iter: int, stop: StopRequest) -> Iterator[tuple[int, Tensor]]:
        passes = self.pair.extra_passes
        stream = TrainingStream(
            self._images(passes.crop, self.mirrors),
            passes.repeats * len(self.target),
            (self.args.random_seed, STATISTICS, i_iter),
        )
        return self._batches(stream, self.args.swa_batch, stop)

    def _measured_batches(self, i_iter: int, stop: StopRequest) -> Iterator[tuple[int, Tensor]]:
        passes = self.pair.extra_passes
        stream = OrderedStream(
            self._images(passes.measured_crop, mirror=False),
            len(self.target),
            (self.args.random_seed, MEASURE, i_iter),
        )
        return self._batches(stream, passes.measured_batch or self.args.swa_batch, stop)

    def _images(self, crop: Size | None, mirror: bool) -> SegmentationDataset:
        """The target's training images in random crops of at most this size; None: whole."""
        size = self.args.input_size_target
        crop = size if crop is None else tuple(map(min, crop, size))
        view = replace(
            self.target.view, crop_size=crop, random_scale=False, random_mirror=mirror, autoaugment=False
        )
        return self.target.unlabelled(view)

    def _batches(
        self, stream: TrainingStream, batch_size: int, stop: StopRequest
    ) -> Iterator[tuple[int, Tensor]]:
        """This rank's share of the stream's batches on the device, each with its first position.

        Batches are not divided among ranks, so they are those of a single process.

        Raises:
            _StopRequested: on all ranks, if one received a signal.
        """
        processes, device = self.trainer.processes, self.trainer.often_weight.device
        count = math.ceil(len(stream) / batch_size)
        mine = [batch_size * number for number in processes.shard(count)]
        positions = [p for first in mine for p in range(first, min(first + batch_size, len(stream)))]
        workers = count_workers(self.args.num_workers, processes.local_world_size)
        pinned = device.type == "cuda"
        loaded = batches(
            Subset(stream, positions), batch_size, workers, pinned, worker_init=ignore_stop_signals
        )
        try:
            for number in range(math.ceil(count / processes.world_size)):
                if processes.all_reduce_max(bool(stop.signum)):
                    raise _StopRequested
                if number < len(mine):
                    yield mine[number], to_network_input(to_device(next(loaded)["image"], device))
        finally:
            loaded.close()


class _StopRequested(Exception):
    """Ends an update early."""
