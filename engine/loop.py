"""The training loop of both stages."""

import logging
import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dataset import Adaptation, DataError
from dataset.labels import palette
from dataset.sampling import TrainingStream
from engine.averaging import Averaging
from engine.resume import save_state
from engine.run_log import TrainingLog
from engine.snapshots import PICTURES, remove_old_snapshots, save_snapshot, save_tensors
from engine.validation import Validation
from utils.atomic import atomic_write
from utils.contrast import View
from utils.device import to_device
from utils.errors import Stopped, StopRequest, UserError
from utils.pictures import training_pictures
from utils.preprocess import to_network_input

Batch = tuple[Tensor, Tensor, Tensor, Tensor | None]  # images, images_t, labels, labels_t
Predictions = tuple[Tensor, Tensor, Tensor, Tensor]
EXTRAS = ("soft_labels", "pseudo")  # what batches of self-training hold beside images and labels
NO_SCORE = -1.0  # below any mean IoU
log = logging.getLogger(__name__)


class LossBuffer:
    """Losses that are still on the device: the loop only synchronises when it fetches them."""

    def __init__(self):
        self.rows: list[tuple[int, list[str], Tensor]] = []  # iteration, names, losses and class weights

    def add(self, i_iter: int, losses: dict[str, Tensor], class_weight: Tensor) -> None:
        """Add the 0-dimensional losses and the class weights (C,) of an iteration."""
        values = torch.stack(list(losses.values()))
        self.rows.append((i_iter, list(losses), torch.cat([values, class_weight.to(values)])))

    def fetch(self, files: Callable[[int], str]) -> tuple[dict[str, float], list[float]]:
        """Empty the buffer; the losses and class weights of the latest iteration.

        Args:
            files: iteration -> the files of its batches, for the error.

        Raises:
            UserError: a loss of any iteration in the buffer is not finite.
        """
        rows, self.rows = self.rows, []
        losses, class_weight = {}, []
        fetched = torch.stack([values for *_, values in rows]).tolist() if rows else []
        for (i_iter, names, _), values in zip(rows, fetched, strict=True):
            losses, class_weight = dict(zip(names, values, strict=False)), values[len(names) :]
            # val is not trained on; it is nan where no pixel of a batch has a label.
            if not all(math.isfinite(value) for name, value in losses.items() if name != "val"):
                shown = ", ".join(f"{name} {value:g}" for name, value in losses.items() if value)
                raise UserError(
                    f"iteration {i_iter}: the losses are not finite ({shown}) with {files(i_iter)}; lower "
                    "--learning-rate or check these files, and go on from the last saved state with --resume"
                )
        return losses, class_weight


@dataclass
class Training:
    """A training that can stop between any two iterations and resume there.

    Args:
        trainer: `AD_Trainer` of either stage, on its device.
        args: the flags.
        pair: the domains with their classes and colours.
        streams: the labelled and the target stream, whose positions name the files of a step; with
            `--lambda-patch` also that of views.
        loaders: their batches, from the first iteration on; views from `--patch-start` on.
        target_has_labels: whether the loss on the target's labels is logged.
        run_log: None except on rank 0.
        validation: None: the mIoU is not measured.
        averaging: None: the network is not averaged.
        open_target: (iteration, weights) -> the target stream and its batches from there on.
        hashes: of the two data sets, by which a resume notices others.
    """

    trainer: nn.Module
    args: Namespace
    pair: Adaptation
    streams: list[TrainingStream]
    loaders: list[Iterator[dict]]
    target_has_labels: bool
    run_log: TrainingLog | None
    validation: Validation | None
    averaging: Averaging | None = None
    open_target: Callable[[int, Tensor], tuple[TrainingStream, Iterator[dict]]] | None = None
    hashes: list[str] = field(default_factory=list)
    losses: LossBuffer = field(default_factory=LossBuffer, init=False)

    def run(self, start: int) -> None:
        """Train from iteration `start` to `args.num_steps_stop`.

        Raises:
            Stopped: after a signal; everything is saved.
            UserError, DataError: a file cannot be read or written, or a loss is not finite.
        """
        args, end = self.args, self.args.num_steps_stop
        with StopRequest() as stop:
            for i_iter in range(start, end):
                self._update_average(i_iter - 1, stop)
                if _due(i_iter - 1, args.eval_every):
                    self._validate(i_iter - 1, i_iter, stop)
                batch, losses, predictions = self._step(i_iter, self._load(i_iter, stop))
                if self.run_log:
                    self._log(i_iter, losses)
                    self._save_snapshot(i_iter, batch, predictions)
                if _due(i_iter + 1, args.save_state_every) or i_iter + 1 == end:
                    self._save_state(i_iter + 1)
                del batch, predictions  # free their memory before the next step
            self._update_average(end - 1, stop)
            if args.eval_every:
                self._validate(end, end, stop)

    def _load(self, i_iter: int, stop: StopRequest) -> list[tuple[dict, dict]]:
        """The labelled and target batches of an iteration; all ranks save and stop if one cannot go on."""
        loaded, problem = [], None
        try:
            loaders = self.loaders if i_iter >= self.args.patch_start else self.loaders[:2]
            for _ in range(0 if stop.signum else self.args.iter_size):
                loaded.append(tuple(next(loader) for loader in loaders))
        except DataError as error:
            problem = str(error)
        self._stop_if_asked(i_iter, stop, problem)
        return loaded

    def _step(
        self, i_iter: int, loaded: list[tuple[dict, dict]]
    ) -> tuple[Batch, dict[str, Tensor], Predictions]:
        """Train on an iteration's batches; the last of them, its losses and its predictions."""
        trainer, predictions = self.trainer, None
        trainer.adjust_learning_rates(i_iter)
        for number, streams in enumerate(loaded, start=1):
            device = trainer.often_weight.device
            (images, labels), (images_t, labels_t) = (load_batch(b, device) for b in streams[:2])
            labels_t = labels_t if self.target_has_labels and self._logs(i_iter) else None
            if not (trainer.needs_target(i_iter) or labels_t is not None or self._pictures(i_iter)):
                images_t = None  # spares its forward pass
            batch = (images, images_t, labels, labels_t)
            del predictions  # of the batch before
            last = number == len(loaded)
            more = {key: to_device(streams[0][key], images.device) for key in EXTRAS if key in streams[0]}
            if len(streams) > 2:
                more["views"] = load_views(streams[2], device)
            losses, predictions = trainer.gen_update(*batch, i_iter, update=last, **more)
            losses |= trainer.dis_update(*predictions, update=last)
        return batch, losses, predictions

    def _logs(self, i_iter: int) -> bool:
        return i_iter % self.args.log_every == 0 or i_iter == self.args.num_steps_stop - 1

    def _saves(self, i_iter: int) -> bool:
        return _due(i_iter, self.args.save_pred_every) or i_iter == self.args.num_steps_stop - 1

    def _pictures(self, i_iter: int) -> bool:
        return self.args.save_num_images > 0 and self._saves(i_iter)

    def _log(self, i_iter: int, losses: dict[str, Tensor]) -> None:
        if not self.target_has_labels:
            losses = {name: loss for name, loss in losses.items() if name != "val"}
        self.losses.add(i_iter, losses, self.trainer.class_weight)
        if self._logs(i_iter):
            values, class_weight = self.losses.fetch(self._files)
            self.run_log.write(i_iter, values, self.trainer.rates(), class_weight)

    def _files(self, i_iter: int) -> str:
        """The files of an iteration's batches."""
        drawn = self.args.iter_size * self.args.batch_size
        positions = range(i_iter * drawn, (i_iter + 1) * drawn)
        return "; ".join(", ".join(stream.names_at(positions)) for stream in self.streams)

    def _save_snapshot(self, i_iter: int, batch: Batch, predictions: Predictions) -> None:
        """Save the snapshot and the pictures that are due after an iteration."""
        args, folder, prefix = self.args, self.args.snapshot_dir, self.pair.source.prefix
        last = i_iter == args.num_steps_stop - 1
        number = i_iter + 1 if last else i_iter  # in the snapshot's name, as published
        if self._saves(i_iter):
            self.losses.fetch(self._files)
            path = save_snapshot(self.trainer, folder, prefix, number)
            if args.keep:
                remove_old_snapshots(folder, prefix, args.keep, number, args.restore_from)
            log.info("Saved %s", path)
        if self._pictures(i_iter):
            images, images_t, labels, _ = batch
            colors = palette(self.pair.colors)
            sheet = training_pictures(images, images_t, labels, predictions, colors, args.save_num_images)
            self.run_log.picture(i_iter, sheet)
            atomic_write(folder / PICTURES / f"{number}.png", lambda tmp: sheet.save(tmp, "PNG"))

    def _save_state(self, i_iter: int) -> None:
        """Save everything before iteration `i_iter`; all ranks."""
        if self.run_log:
            self.losses.fetch(self._files)
            self.run_log.fsync()
        images = [len(stream.dataset) for stream in self.streams[:2]]
        where = self.args.snapshot_dir, self.trainer, i_iter, self.args
        save_state(*where, images, self.averaging, self.hashes)

    def _stop_if_asked(self, i_iter: int, stop: StopRequest, problem: str | None = None) -> None:
        """If any rank received a signal or has a problem, all save before iteration `i_iter` and stop."""
        processes = self.trainer.processes
        if not processes.all_reduce_max(bool(stop.signum or problem)):
            return
        signums, problems = zip(*processes.gather((stop.signum, problem)), strict=True)
        problem = next(filter(None, problems), None)
        try:
            self._save_state(i_iter)
        except UserError as error:
            raise UserError(f"{problem}; also, {error}" if problem else str(error)) from error
        saved = f"saved before iteration {i_iter}; continue there with --resume"
        if problem:
            raise DataError(f"{problem} ({saved})")
        raise Stopped(max(signums), saved)

    def _update_average(self, i_iter: int, stop: StopRequest) -> None:
        """Make the update that is due after iteration `i_iter`; after a stop request, save and leave it."""
        if not (self.averaging and self.averaging.due(i_iter)):
            return
        if self.run_log:
            self.losses.fetch(self._files)  # while the streams still name their files
        if not self.averaging.update(i_iter, stop):
            self._stop_if_asked(i_iter + 1, stop)
        if self.args.adaboost and i_iter + 1 < self.args.num_steps_stop:
            self.loaders[1].close()  # its workers have drawn ahead with the old weights
            self.streams[1], self.loaders[1] = self.open_target(i_iter + 1, self.averaging.weights)

    def _validate(self, number: int, i_iter: int, stop: StopRequest) -> None:
        """Measure the network after iteration `number`; after a stop request, save before `i_iter`."""
        earlier = self.run_log.validations() if self.run_log else []
        done = any(line["iteration"] == number for line in earlier)  # before a resume
        if self.trainer.processes.broadcast(done):
            return
        networks = {"network": self.trainer.G}
        if self.averaging and (average := self.averaging.network()):
            networks["average"] = average
        results = {}
        for name, network in networks.items():
            results[name] = self.validation.measure(network, self.trainer.processes, stop)
            if results[name] is None:
                self._stop_if_asked(i_iter, stop)
        if not self.run_log:
            return
        for name, result in results.items():
            means = {mean: value for mean, value in result["means"].items() if value is not None}
            shown = ", ".join(f"{mean} {100 * value:.2f}" for mean, value in means.items())
            which = "validation of the average" if name == "average" else "validation"
            log.info("Iteration %d: %s %s", number, which, shown or "has no labelled pixel")
        if self.args.keep_best:
            self._save_best(networks, results, earlier)
        line = results.pop("network") | results
        self.run_log.validated(number, line)  # last: a measurement in the log is not repeated on resume

    def _save_best(
        self, networks: dict[str, nn.Module], results: dict[str, dict], earlier: list[dict]
    ) -> None:
        """Save the best of the networks just measured, if it is better than all in the `earlier` lines."""
        name = max(results, key=lambda name: _score(results[name]))
        before = [_score(part) for line in earlier for part in (line, line.get("average")) if part]
        if _score(results[name]) > max(before, default=NO_SCORE):
            path = self.args.snapshot_dir / f"{self.pair.source.prefix}_best.pth"
            save_tensors(path, networks[name].state_dict())
            log.info("Saved %s, the best so far", path)


def load_batch(batch: dict, device: torch.device) -> tuple[Tensor, Tensor]:
    """Network input (N, 3, H, W) and int64 labels (N, H, W) on the device; the transfer is in uint8."""
    return to_network_input(to_device(batch["image"], device)), to_device(batch["label"], device).long()


def load_views(pairs: dict, device: torch.device) -> list[View]:
    """Both views of a batch of `dataset.pairs.PairDataset` on the device."""
    corners, mirrored = (pairs[key].unbind(1) for key in ("corners", "mirrored"))
    images = to_device(pairs["image"], device).unbind(1)
    return [
        View(to_network_input(image), corner.tolist(), flips.tolist())
        for image, corner, flips in zip(images, corners, mirrored, strict=True)
    ]


def _due(i_iter: int, every: int) -> bool:
    return every > 0 and i_iter > 0 and i_iter % every == 0


def _score(result: dict) -> float:
    """The first mean IoU of a measurement; `NO_SCORE` without a labelled pixel."""
    score = next(iter(result["means"].values()))
    return NO_SCORE if score is None else score
