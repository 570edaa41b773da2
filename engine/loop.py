"""The training loop of both stages."""

import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dataset import DataError
from dataset.sampling import TrainingStream
from engine.resume import refuse_broken, restore_process, save_state
from engine.run_log import NotFinite, TrainingLog
from engine.snapshots import remove_old_snapshots, save_snapshot, save_tensors
from engine.validation import Validation
from utils.atomic import atomic_write
from utils.device import to_device
from utils.errors import UserError
from utils.preprocess import to_network_input
from utils.stopping import Stopped, StopRequest
from utils.training_pictures import training_pictures

PICTURES = "pictures"  # folder below the snapshots'
Pair = tuple[dict, dict]  # a labelled and a target batch
Batch = tuple[Tensor, Tensor, Tensor, Tensor | None]  # images, images_t, labels, labels_t
Predictions = tuple[Tensor, Tensor, Tensor, Tensor]
log = logging.getLogger(__name__)


@dataclass
class Training:
    """A training that can be stopped between any two iterations and gone on with.

    Args:
        trainer: `AD_Trainer` of either stage, on its device.
        args: the flags.
        state: what it goes on from (`engine.resume`), or None.
        streams: the labelled and the target stream.
        loaded: their batches, from the first iteration on and without an end.
        target_has_labels: whether the target's labels are watched.
        prefix: of the snapshots' names.
        palette: colours of the train ids, (256, 3) uint8.
        history: what is told; None in a process that writes nothing.
        validation: measures the mIoU; None: it is not measured.
    """

    trainer: nn.Module
    args: Namespace
    state: dict | None
    streams: tuple[TrainingStream, TrainingStream]
    loaded: tuple[Iterator[dict], Iterator[dict]]
    target_has_labels: bool
    prefix: str
    palette: np.ndarray
    history: TrainingLog | None
    validation: Validation | None

    def run(self) -> None:
        """Train to `num_steps_stop`, with snapshots `<prefix>_<iteration>` and the state for `--resume`.

        Raises:
            Stopped: a signal asked for it; everything is saved.
            UserError: a file cannot be read or written, a check failed, or a loss is no longer finite.
        """
        start, end = self.state["iteration"] if self.state else 0, self.args.num_steps_stop
        if self.state:
            restore_process(self.state, self.trainer)
            self.state = None  # its memory is wanted
        with StopRequest() as stop, self._broken_losses():
            for i_iter in range(start, end):
                if _due(i_iter - 1, self.args.eval_every):
                    self._validate(i_iter - 1, i_iter, stop)
                pairs = self._draw(i_iter, stop)
                batch, losses, predictions = self._step(i_iter, pairs)
                if self.history:
                    self.history.step(i_iter, losses, self.trainer.rates(), self.trainer.class_weight)
                    self._look_back(i_iter, batch, predictions)
                if _due(i_iter + 1, self.args.save_state_every) or i_iter + 1 == end:
                    self._save(i_iter + 1)
                del batch, predictions  # they would take up memory during the next step
            if self.args.eval_every:
                self._validate(end, end, stop)

    def _draw(self, i_iter: int, stop: StopRequest) -> list[Pair]:
        """The batches of an iteration; where a process cannot have them or is to stop, all save and leave."""
        pairs, problem = [], None
        try:
            for _ in range(0 if stop.number else self.args.iter_size):
                pairs.append(tuple(next(batches) for batches in self.loaded))
        except DataError as error:
            problem = str(error)
        self._stop_together(i_iter, stop, problem)
        return pairs

    def _step(self, i_iter: int, pairs: list[Pair]) -> tuple[Batch, dict[str, Tensor], Predictions]:
        trainer, device, predictions = self.trainer, self.trainer.often_weight.device, None
        trainer.adjust_learning_rates(i_iter)
        for part, pair in enumerate(pairs, start=1):
            (images, labels), (images_t, labels_t) = (_to_device(batch, device) for batch in pair)
            batch = (images, images_t, labels, labels_t if self.target_has_labels else None)
            del predictions
            losses, predictions = trainer.gen_update(*batch, i_iter, update=part == len(pairs))
            losses |= trainer.dis_update(*predictions, update=part == len(pairs))
        return batch, losses, predictions

    def _look_back(self, i_iter: int, batch: Batch, predictions: Predictions) -> None:
        """The snapshot and the pictures that are due after an iteration."""
        args, folder = self.args, self.args.snapshot_dir
        name = _snapshot_iteration(i_iter, args)
        if name:
            self.history.check()
            refuse_broken(self.trainer.state_dict(), i_iter)
            save_snapshot(self.trainer, folder, self.prefix, name)
            if args.keep:
                remove_old_snapshots(folder, self.prefix, args.keep, name, args.restore_from)
            log.info("Saved %s", folder / f"{self.prefix}_{name}.pth")
        shown = self.history.board is not None and _due(i_iter, args.pictures_every)
        if args.save_num_images and (name or shown):
            images, images_t, labels, _ = batch
            sheet = training_pictures(
                images, images_t, labels, predictions, self.palette, args.save_num_images
            )
            self.history.picture(i_iter, sheet)
            if name:
                atomic_write(folder / PICTURES / f"{name}.png", lambda aside: sheet.save(aside, "PNG"))

    def _save(self, i_iter: int) -> None:
        """Save the state before iteration `i_iter`; all processes."""
        if self.history:
            self.history.check()
            self.history.fsync()
        images = [len(stream.dataset) for stream in self.streams]
        save_state(self.args.snapshot_dir, self.trainer, i_iter, self.args, images, [])

    def _stop_together(self, i_iter: int, stop: StopRequest, problem: str | None = None) -> None:
        """Save before iteration `i_iter` and leave, all processes together, if one has a reason to."""
        processes = self.trainer.processes
        if not processes.all_reduce_max(bool(stop.number or problem)):
            return
        numbers, problems = zip(*processes.gather((stop.number, problem)), strict=True)
        said = next((line for line in problems if line), None)
        try:
            self._save(i_iter)
        except UserError as error:
            raise UserError(f"{said}; and then {error}" if said else str(error)) from error
        saved = f"saved before iteration {i_iter}; --resume goes on there"
        if said:
            raise DataError(f"{said} ({saved})")
        raise Stopped(max(numbers), saved)

    def _validate(self, name: int, i_iter: int, stop: StopRequest) -> None:
        """Measure the network that iteration `name` left; if to stop meanwhile, save before `i_iter`."""
        earlier = self.history.validations() if self.history else []
        if self.trainer.processes.broadcast(any(line["iteration"] == name for line in earlier)):
            return
        result = self.validation.measure(self.trainer.G, self.trainer.processes, stop)
        if result is None:
            self._stop_together(i_iter, stop)
        if not self.history:
            return
        value, *before = (next(iter(line["means"].values())) for line in (result, *earlier))
        best = max((old for old in before if old is not None), default=-1)
        log.info("Iteration %d: validation %s", name, _in_percent(result["means"]))
        if self.args.keep_best and value is not None and value > best:
            path = self.args.snapshot_dir / f"{self.prefix}_best.pth"
            save_tensors(path, self.trainer.G.state_dict())
            log.info("Saved %s, the best so far", path)
        self.history.validated(name, result)  # after it: what is noted is not measured and saved again

    @contextmanager
    def _broken_losses(self) -> Iterator[None]:
        """Losses that are not finite become a line with the iteration, the losses and the batch's files."""
        try:
            yield
        except NotFinite as broken:
            args = self.args
            drawn = args.iter_size * args.batch_size
            positions = range(broken.iteration * drawn, (broken.iteration + 1) * drawn)
            files = "; ".join(", ".join(stream.names_at(positions)) for stream in self.streams)
            values = ", ".join(f"{name} {value:g}" for name, value in broken.losses.items() if value)
            raise UserError(
                f"iteration {broken.iteration}: the losses are not finite ({values}) with {files}; lower "
                "--learning-rate or look at these files, and go on from the last saved state with --resume"
            ) from broken


def _to_device(batch: dict, device: torch.device) -> tuple[Tensor, Tensor]:
    """Network input and int64 labels; what crosses the bus is bytes."""
    return to_network_input(to_device(batch["image"], device)), to_device(batch["label"], device).long()


def _due(i_iter: int, every: int) -> bool:
    return every > 0 and i_iter > 0 and i_iter % every == 0


def _snapshot_iteration(i_iter: int, args: Namespace) -> int | None:
    """The number in the name of the snapshot due after iteration `i_iter`, if one is."""
    if i_iter == args.num_steps_stop - 1:
        return args.num_steps_stop
    return i_iter if _due(i_iter, args.save_pred_every) else None


def _in_percent(means: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {100 * v:.2f}" for name, v in means.items() if v is not None) or "no labels"
