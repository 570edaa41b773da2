"""The training loop of both stages."""

import logging
from argparse import Namespace
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dataset.beside import ChecksBeside
from model.deeplab_multi import fuse
from utils.checkpoint import save_snapshot
from utils.logging import TrainingLog
from utils.pictures import save_training_pictures
from utils.preprocess import to_network_input, to_pixels

log = logging.getLogger(__name__)


def train(
    trainer: nn.Module,
    args: Namespace,
    labelled: Iterator[dict],
    target: Iterator[dict],
    target_has_labels: bool,
    prefix: str,
    palette: np.ndarray,
    checks: ChecksBeside,
) -> None:
    """Train from iteration 0 to `args.num_steps_stop`, with snapshots named `<prefix>_<iteration>`.

    Args:
        trainer: `AD_Trainer` of either stage, on its device.
        labelled, target: endless batches of `dataset.stream.batches`.
        target_has_labels: whether the target's labels are watched.
        palette: colours of the train ids, for the pictures.
        checks: of the data, which run beside; all are done before a snapshot is written.

    Raises:
        DataError: a sample cannot be read, or a check has failed.
    """
    folder = args.snapshot_dir
    board = args.log_dir / folder.resolve().name if args.tensorboard else None
    main = trainer.processes.main  # of several processes one writes
    history = TrainingLog(folder, board, args.log_every, args.num_steps_stop) if main else None
    device = trainer.often_weight.device
    predictions = None
    for i_iter in range(args.num_steps_stop):
        trainer.adjust_learning_rates(i_iter)
        for part in range(1, args.iter_size + 1):
            images, labels = _to_device(next(labelled), device)
            images_t, labels_t = _to_device(next(target), device)
            batch = (images, images_t, labels, labels_t if target_has_labels else None)
            del predictions  # the last step's, which would take up memory during this one
            losses, predictions = trainer.gen_update(*batch, i_iter, update=part == args.iter_size)
            losses |= trainer.dis_update(*predictions, update=part == args.iter_size)
        checks.poll()
        if not main:
            continue
        history.step(i_iter, losses, trainer.rates())
        if name := _snapshot_iteration(i_iter, args):
            checks.finish()
            save_snapshot(trainer, folder, prefix, name)
            if args.save_num_images:
                rows = _pictures(batch, predictions, palette, args.save_num_images)
                save_training_pictures(folder / "pictures" / f"{name}.png", rows)
            log.info("Saved %s", folder / f"{prefix}_{name}.pth")
    if main:
        history.close()


def _to_device(batch: dict, device: torch.device) -> tuple[Tensor, Tensor]:
    """Network input and int64 labels; what crosses the bus is bytes."""
    images = batch["image"].to(device, non_blocking=True)
    return to_network_input(images), batch["label"].to(device, non_blocking=True).long()


def _snapshot_iteration(i_iter: int, args: Namespace) -> int | None:
    """The number in the name of the snapshot due after iteration `i_iter`, if one is."""
    if i_iter == args.num_steps_stop - 1:
        return args.num_steps_stop
    return i_iter if i_iter > 0 and i_iter % args.save_pred_every == 0 else None


def _pictures(
    batch: tuple[Tensor, Tensor, Tensor, Tensor | None],
    predictions: tuple[Tensor, Tensor, Tensor, Tensor],
    palette: np.ndarray,
    count: int,
) -> list[list[np.ndarray]]:
    """For the first `count` images a row: labelled image, label, prediction; target image, prediction."""
    images, images_t, labels, _ = batch
    z1, z2, z1_t, z2_t = (z[:count] for z in predictions)
    columns = [to_pixels(images[:count]), labels[:count], fuse(z1, z2).argmax(1)]
    columns += [to_pixels(images_t[:count]), fuse(z1_t, z2_t).argmax(1)]
    columns = [c.cpu().numpy() for c in columns]
    coloured = [c if c.ndim == 4 else palette[c.clip(0, 255)] for c in columns]
    return [list(row) for row in zip(*coloured, strict=True)]
