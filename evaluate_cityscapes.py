"""Predict the target's validation images, score them against their labels, print IoU per class and mIoU.

    python evaluate_cityscapes.py --restore-from ./snapshots/stage2/GTA5_25000.pth
    python evaluate_cityscapes.py --restore-from … --report                  # and a page to look at
    python evaluate_cityscapes.py --restore-from … --weights 1:0.5,1:0,0:1   # classifiers side by side
    python evaluate_cityscapes.py --predictions ./predictions                # score files of any model

Source, target and classes are the snapshot's (see engine/recognise.py), unless --source or --target say so.

Writes for each image <name>.png (train ids), <name>_color.png, <name>_heatmap.png (uncertainty) and
<name>_score.png; for the set metrics.json, metrics.csv, images.csv and, with --report, report.html
(docs/results.md).
"""

import logging
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import Adaptation, DataError, PredictionDataset, SegmentationDataset
from dataset.base import prediction_name
from dataset.images import IdReader, read_header
from dataset.labels import IGNORE, format_counts, palette
from engine.evaluation import PixelCounts, summary, table
from engine.restore import (
    prediction_batches,
    prediction_order,
    prediction_target,
    resolve_domains,
    restore_network,
)
from engine.run_log import log_to_terminal, progress
from engine.snapshots import record_result
from report.evaluation_report import write_evaluation_report
from report.result_folder import read_result, write_result
from utils.atomic import resolve_path
from utils.device import choose_device
from utils.distributed import Processes, init_distributed, shutdown
from utils.errors import run_script
from utils.inference import predict_all, scaled_sizes
from utils.pictures import PredictionWriter
from utils.prediction_options import evaluate_args
from utils.uncertainty import UncertaintyGap

FILES = "files"  # the one column of predictions that no network made
PAGE = "report.html"
log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """Of one image, each (H, W): label, a prediction a column, and the uncertainty if there is one."""

    label: Tensor
    predictions: list[Tensor]
    uncertainty: Tensor | None


def main() -> None:
    """Score a network's predictions, or files of predictions, with one confusion matrix over the set."""
    args = evaluate_args()
    processes = init_distributed(args.cpu)
    log_to_terminal(processes.is_main)
    pair = resolve_domains(args, scales="evaluation")
    data = prediction_target(pair, args)
    if processes.is_main:
        data.check(labels_required=True)
    gap = UncertaintyGap(len(pair.colors))
    # Files alone are scored on the CPU; several processes meet on their devices all the same.
    alone_with_files = args.predictions and not processes.is_distributed
    device = torch.device("cpu") if alone_with_files else choose_device(args, processes)[0]
    if args.predictions:
        titles, save = [FILES], args.save or args.predictions
        scored = predictions_of_files(data, args.predictions, processes, device)
    else:
        titles = list(args.weights)
        save = args.save or Path(f"./result/cityscapes{resolve_path(args.restore_from).parent.name}")
        scored = predictions_of_network(data, args, save, gap, processes, device)
    tally = PixelCounts(len(data), titles, len(pair.colors), device)
    order = prediction_order(len(data), processes)
    for index, image in zip(order, progress(scored, len(data), processes), strict=True):
        tally.add(index, *image)
    tally.gather(processes)
    gap.gather(processes, device)
    if processes.is_main:
        finish(args, pair, data, tally, gap, save)
    shutdown()


def finish(
    args: Namespace,
    pair: Adaptation,
    data: SegmentationDataset,
    tally: PixelCounts,
    gap: UncertaintyGap,
    save: Path,
) -> None:
    """Print the table, write the numbers and the page."""
    result = summary(pair, tally, None if args.predictions else gap.value())
    log.info("%s", table(pair, tally, result, len(data)))
    result |= {
        "names": [str(Path(name).with_suffix("")) for name in data.names],
        "images": len(data),
        "restore_from": str(args.restore_from or args.predictions),
        "uncertainty": None if args.predictions else args.uncertainty,
        "data": {
            "source": args.source or pair.source.name,
            "target": args.target or pair.target.name,
            "data_dir": str(args.data_dir),
            "set": args.set,
        },
    }
    scores = tally.image_scores(data.names, next(iter(pair.means.values())))
    write_result(save, result, scores)
    record_result(save, args)
    log.info("%d images: %s", len(data), save)
    if args.report:
        write_evaluation_report(save / PAGE, read_result(save), data, args.report_images)
        log.info("The page: %s", save / PAGE)


def predictions_of_network(
    data: SegmentationDataset,
    args: Namespace,
    save: Path,
    gap: UncertaintyGap,
    processes: Processes,
    device: torch.device,
) -> Iterator[Scored]:
    """Every image in `prediction_order`, on the device, with a prediction for each of `--weights`.

    Meanwhile the first one's files are written to `save`, and its uncertainty is counted in `gap`.
    """
    network = restore_network(args, device)
    images = PredictionDataset(data, scaled_sizes(args.input_size, args.scales), labels=True)
    predictions = predict_all(
        network,
        prediction_batches(images, args, device, processes),
        device,
        weightings=list(args.weights.values()),
        mirrored_uncertainty=True,
        uncertainty=args.uncertainty,
        passes=args.mc_passes,
        droprate=args.mc_droprate,
        seed=args.random_seed,
    )
    with PredictionWriter(save, palette(data.colors), scores=True) as writer:
        for name, label, weighted in predictions:
            label = label.to(device)
            writer.write(name, weighted[0])
            gap.add(label, weighted[0].label, weighted[0].uncertainty)
            yield Scored(label, [prediction.label for prediction in weighted], weighted[0].uncertainty)


def predictions_of_files(
    data: SegmentationDataset, folder: Path, processes: Processes, device: torch.device
) -> Iterator[Scored]:
    """Every image in `prediction_order` with its prediction in `folder`, train ids of the label's size."""
    paths = {name: folder / prediction_name(name) for name in data.names}
    missing = [path for path in paths.values() if not os.path.isfile(path)]
    if missing:
        raise DataError(f"{missing[0]}: no such prediction, {len(missing)} are missing; name their folder")
    for index in prediction_order(len(data), processes):
        name = data.names[index]
        path = paths[name]
        label, prediction = data.train_ids(name), read_prediction(path, len(data.colors))
        if label.shape != prediction.shape:
            raise DataError(
                f"{path}: is {prediction.shape}, its label {label.shape} (height, width); predictions must "
                "be of the label's size"
            )
        prediction = torch.from_numpy(prediction.astype(np.int64)).to(device)
        yield Scored(torch.from_numpy(label).to(device), [prediction], None)


def read_prediction(path: Path, classes: int) -> np.ndarray:
    """Train ids (H, W) of a file; 255 for none.

    Raises:
        DataError: it cannot be read, or holds ids that are no train ids.
    """
    read_header(path)
    ids = IdReader().read(path)
    others = ids[((ids < 0) | (ids >= classes)) & (ids != IGNORE)]
    if others.size:
        raise DataError(
            f"{path}: id {format_counts(others)} is no train id; write 0 to {classes - 1}, {IGNORE} for none"
        )
    return ids


if __name__ == "__main__":
    run_script(main)
