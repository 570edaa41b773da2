"""Predict the target's validation images, score them against their labels, print IoU per class and mIoU.

    python evaluate_cityscapes.py --restore-from ./snapshots/stage2/GTA5_25000.pth
    python evaluate_cityscapes.py --predictions ./predictions      # score files of any model

Writes for each image <name>.png (train ids), <name>_color.png, <name>_heatmap.png (uncertainty) and
<name>_score.png, and metrics.json for the set.
"""

import json
import logging
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset import DataError, PredictionDataset, SegmentationDataset, build_dataset
from dataset.base import decode_ids
from dataset.labels import palette
from utils.errors import UserError, run_script
from utils.files import write_whole
from utils.inference import predict_all, scaled_sizes
from utils.logging import log_to_terminal, progress
from utils.metrics import confusion_matrix, format_iou, iou, mean_iou
from utils.options import evaluate_args
from utils.pictures import PredictionWriter
from utils.restore import prediction_batches, restore_network

log = logging.getLogger(__name__)


def main() -> None:
    """Score a network's predictions, or files of predictions, with one confusion matrix over the set."""
    log_to_terminal()
    args = evaluate_args()
    data = build_dataset("cityscapes", args.data_dir, split=args.set, list_file=args.data_list)
    data.check(labels_required=True)
    if args.num_classes != len(data.colors):
        raise UserError(f"--num-classes {args.num_classes}: the labels are of {len(data.colors)} classes")
    if args.predictions:
        save, scored = args.save or args.predictions, predictions_of_files(data, args.predictions)
    else:
        folder = Path(args.restore_from).resolve().parent.name
        save = args.save or Path(f"./result/cityscapes{folder}")
        scored = predictions_of_network(data, args, save)
    matrix = sum(
        confusion_matrix(label, prediction, args.num_classes, void=True)
        for label, prediction in progress(scored, len(data))
    ).cpu()
    values = iou(matrix)
    names = list(data.colors)
    log.info("%s\n%d images: %s", format_iou(names, values), len(data), save)
    write_metrics(save / "metrics.json", args, names, matrix, values, data.names)


def predictions_of_network(
    data: SegmentationDataset, args: Namespace, save: Path
) -> Iterator[tuple[Tensor, Tensor]]:
    """Label and prediction of every image, on the device, while the predictions are written to `save`."""
    network, device = restore_network(args)
    images = PredictionDataset(data, scaled_sizes(args.input_size, args.scales), labels=True)
    batches = prediction_batches(images, args, device)
    with PredictionWriter(save, palette(data.colors), scores=True) as writer:
        for name, label, prediction in predict_all(network, batches, device, mirrored_uncertainty=True):
            writer.write(name, prediction)
            yield label.to(device), prediction.label


def predictions_of_files(data: SegmentationDataset, folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Label and the prediction in `folder` of every image; train ids, the label's size."""
    missing = [name for name in data.names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder / missing[0]}: no such prediction ({len(missing)} are missing)")
    for name in data.names:
        label, prediction = data.train_ids(name), decode_ids(folder / name)
        if label.shape != prediction.shape:
            raise DataError(
                f"{folder / name}: is {prediction.shape}, its label {label.shape} (height, width)"
            )
        yield torch.from_numpy(label), torch.from_numpy(prediction.astype(np.int64))


def write_metrics(
    path: Path, args: Namespace, names: list[str], matrix: Tensor, values: Tensor, images: list[str]
) -> None:
    """The result for programs: IoU as fractions, null for a class that does not occur."""
    result = {
        "miou": mean_iou(values),
        "iou": {n: None if v.isnan() else v.item() for n, v in zip(names, values, strict=True)},
        "confusion": matrix[:, : len(names)].tolist(),
        "void_predictions": matrix[:, len(names)].tolist(),
        "images": len(images),
        "names": [str(Path(name).with_suffix("")) for name in images],
        "restore_from": str(args.restore_from or args.predictions),
    }
    write_whole(path, lambda aside: aside.write_text(json.dumps(result)))


if __name__ == "__main__":
    run_script(main)
