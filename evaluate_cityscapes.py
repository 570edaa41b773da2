"""Predict the target's validation images, score them against their labels, print IoU per class and mIoU.

    python evaluate_cityscapes.py --restore-from ./snapshots/stage2/GTA5_25000.pth
    python evaluate_cityscapes.py --restore-from … --weights 1:0.5,1:0,0:1   # classifiers side by side
    python evaluate_cityscapes.py --predictions ./predictions                # score files of any model

Source, target and classes are the snapshot's (see utils/recognise.py), unless --source or --target say so.

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

from dataset import Adaptation, DataError, PredictionDataset, SegmentationDataset
from dataset.base import prediction_name
from dataset.files import IdReader
from dataset.labels import palette
from utils.device import choose_device
from utils.distributed import Processes, join, leave
from utils.errors import run_script
from utils.files import write_whole
from utils.inference import predict_all, scaled_sizes
from utils.logging import log_to_terminal, progress
from utils.metrics import class_mean, confusion_matrix, format_iou_columns, iou
from utils.options import evaluate_args
from utils.pictures import PredictionWriter
from utils.restore import prediction_batches, prediction_target, restore_network, settle_pair
from utils.uncertainty import UncertaintyGap

FILES = "files"  # the one column of predictions that no network made
log = logging.getLogger(__name__)


def main() -> None:
    """Score a network's predictions, or files of predictions, with one confusion matrix over the set."""
    args = evaluate_args()
    processes = join(args.cpu)
    log_to_terminal(processes.main)
    pair = settle_pair(args, scales="evaluation")
    data = prediction_target(pair, args)
    if processes.main:
        data.check(labels_required=True)
    gap = UncertaintyGap(len(pair.colors))
    # Files alone are scored on the CPU; several processes meet on their devices all the same.
    alone_with_files = args.predictions and not processes.several
    device = torch.device("cpu") if alone_with_files else choose_device(args, processes)[0]
    if args.predictions:
        titles, save = [FILES], args.save or args.predictions
        scored = predictions_of_files(data, args.predictions, processes, device)
    else:
        titles = list(args.weights)
        save = args.save or Path(f"./result/cityscapes{Path(args.restore_from).resolve().parent.name}")
        scored = predictions_of_network(data, args, save, gap, processes, device)
    classes = len(pair.colors)
    counts = torch.zeros(len(titles), classes, classes + 1, dtype=torch.int64, device=device)
    for label, predictions in progress(scored, len(data), processes):
        for index, prediction in enumerate(predictions):
            counts[index] += confusion_matrix(label, prediction, classes, void=True)
    matrices = dict(zip(titles, processes.sum(counts).cpu(), strict=True))
    gap.gather(processes, device)
    if processes.main:
        write_result(args, pair, data, matrices, gap, save)
    leave()


def write_result(
    args: Namespace,
    pair: Adaptation,
    data: SegmentationDataset,
    matrices: dict[str, Tensor],
    gap: UncertaintyGap,
    save: Path,
) -> None:
    """Print the table, write metrics.json."""
    result = summary(pair, matrices, None if args.predictions else gap.value())
    log.info("%s", report(pair, matrices, result))
    log.info("%d images: %s", len(data), save)
    result |= {
        "names": [str(Path(name).with_suffix("")) for name in data.names],
        "images": len(data),
        "restore_from": str(args.restore_from or args.predictions),
        "uncertainty": None if args.predictions else args.uncertainty,
    }
    write_whole(save / "metrics.json", lambda aside: aside.write_text(json.dumps(result)))


def predictions_of_network(
    data: SegmentationDataset,
    args: Namespace,
    save: Path,
    gap: UncertaintyGap,
    processes: Processes,
    device: torch.device,
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Label and predictions of every image, on the device, one for each of `--weights`.

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
            yield label, [prediction.label for prediction in weighted]


def predictions_of_files(
    data: SegmentationDataset, folder: Path, processes: Processes, device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Label and the prediction in `folder` of every image; train ids, the label's size."""
    paths = {name: folder / prediction_name(name) for name in data.names}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: no such prediction ({len(missing)} are missing)")
    for index in processes.shard(len(data)):
        name = data.names[index]
        path = paths[name]
        label, prediction = data.train_ids(name), IdReader().read(path)
        if label.shape != prediction.shape:
            raise DataError(f"{path}: is {prediction.shape}, its label {label.shape} (height, width)")
        prediction = torch.from_numpy(prediction.astype(np.int64)).to(device)
        yield torch.from_numpy(label).to(device), [prediction]


def summary(pair: Adaptation, matrices: dict[str, Tensor], gap: float | None) -> dict:
    """The result for programs: fractions, null for a class that does not occur and for a mean of none.

    `iou`, `means`, `miou` (the first of the means), `confusion` and `void_predictions` are of the first pair
    of weights; `classifiers` has IoU and means of each.
    """
    columns = {}
    for title, matrix in matrices.items():
        values = iou(matrix)
        columns[title] = {
            "means": {mean: number(class_mean(values, indices)) for mean, indices in pair.means.items()},
            "iou": {name: number(v.item()) for name, v in zip(pair.classes, values, strict=True)},
        }
    first, matrix = next(iter(columns.values())), next(iter(matrices.values()))
    return {
        "miou": next(iter(first["means"].values())),
        **first,
        "classifiers": columns,
        "uncertainty_gap": None if gap is None else number(gap),
        "confusion": matrix[:, : len(pair.classes)].tolist(),
        "void_predictions": matrix[:, len(pair.classes)].tolist(),
    }


def number(value: float) -> float | None:
    """JSON has no nan."""
    return None if np.isnan(value) else value


def report(pair: Adaptation, matrices: dict[str, Tensor], result: dict) -> str:
    """The table for people: IoU of each class and the means in percent, a column each pair of weights."""
    several = len(matrices) > 1
    columns = {title if several else "": iou(matrix) for title, matrix in matrices.items()}
    lines = [format_iou_columns(pair.classes, columns, pair.means)]
    if len(pair.means) > 1:
        sizes = ", ".join(f"{mean} over {len(indices)} classes" for mean, indices in pair.means.items())
        lines.append(f"{sizes}; in parentheses: in no mean")
    if several:
        lines.append("columns: weights of the primary and the auxiliary classifier")
    if result["uncertainty_gap"] is not None:
        lines.append(f"uncertainty gap {result['uncertainty_gap']:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
