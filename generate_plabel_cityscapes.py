"""Write pseudo labels of the target's training images to the folder from which train_ft.py reads them.

    python generate_plabel_cityscapes.py --restore-from ./snapshots/stage1/GTA5_25000.pth
    python generate_plabel_cityscapes.py --restore-from ./snapshots/stage1/GTA5_25000.pth --portion 0.2

Each image gets <name>.png (train ids), <name>_color.png and <name>_heatmap.png (uncertainty). With --portion
every class has a threshold of its own (CBST); they are in class_balance.json. Ends with each class's share.
"""

from utils.script import run_script

import logging
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset import NO_THRESHOLD, PredictionDataset, SegmentationDataset
from dataset.base import prediction_name
from dataset.images import IdReader
from dataset.labels import IGNORE, palette
from dataset.survey import Survey, doubts
from engine.class_balanced import BEST_IMAGES, ClassBalancedLabels
from engine.restore import (
    MEMORY_ADVICE,
    label_ids,
    log_stretched,
    prediction_batches,
    prediction_target,
    resolve_domains,
    restore_network,
)
from engine.result_folders import FilledFolder, check_apart, check_replaceable
from engine.run_log import log_to_terminal, progress
from model.deeplab_multi import DeeplabMulti
from utils.class_balance import DS_RATE, MINE_PORT
from utils.device import choose_device
from utils.distributed import Processes, init_distributed, shutdown
from utils.flag_types import (
    PUBLISHED_WEIGHTS,
    OneLineParser,
    fraction,
    not_negative,
    not_negative_float,
    positive,
    threshold,
    weightings,
)
from utils.idle_flags import log_idle_flags, refuse_idle_flags
from utils.inference import Prediction, predict_all, predict_maps, scaled_sizes
from utils.losses import class_pixel_counts
from utils.memory import out_of_memory_advice
from utils.metrics import format_class_shares
from utils.options import add_prediction_flags, check_portion, check_threshold
from utils.pictures import PredictionWriter

log = logging.getLogger(__name__)


# fmt: off
def generate_args(argv: list[str] | None = None) -> Namespace:
    """The flags; None means: take it from the snapshot's opts.yaml."""
    parser = OneLineParser("Write pseudo labels for the target's training images.")
    add_prediction_flags(parser, batchsize=12, split="train")
    add = parser.group("pseudo labels")
    add("--weights", weightings, PUBLISHED_WEIGHTS, "weights of primary:auxiliary (MRNet, table 1)")
    add("--threshold", threshold, None, "pixels scoring below it get no label (255); 1 and the published "
        "tags 97 and 777: all get one (default: 0.9 from SYNTHIA and to RobotCar, else 1.0)")
    add("--portion", fraction, 0.0, "class-balanced thresholds: the share of each class that gets a label "
        "(CBST); 0: off")
    add("--ds-rate", positive, DS_RATE, "with --portion: every N-th score counts")
    add("--mine-port", fraction, MINE_PORT, "with --portion: classes below this share are mined")
    add("--lr-weight-ent", not_negative_float, 0.0, "with --portion: soft labels of this exponent (LRENT)")
    add("--best-images", not_negative, 0, "with --portion: label only the N images of the highest score, "
        f"listed in {BEST_IMAGES}; 0: all")
    add("--save", Path, None, "output folder (default: where train_ft.py looks)")
    args = parser.parse_args(argv)
    if not args.restore_from:
        parser.error("--restore-from is missing; name the snapshot to label with")
    if len(args.weights) > 1:
        parser.error("--weights: labels are made with one pair; give the better one")
    if args.portion and args.label_ids:
        parser.error("--portion makes labels for train_ft.py; leave out --label-ids")
    if args.portion:
        check_portion(parser, args.portion, args.threshold, args.save, "--save")
    refuse_idle_flags(parser, args)
    if args.label_ids:
        if not args.save:
            parser.error("--label-ids is not for train_ft.py; name another folder with --save")
        args.threshold = NO_THRESHOLD if args.threshold is None else args.threshold
    if args.threshold is not None:
        check_threshold(parser, args.threshold, args.save, "--save")
    return args
# fmt: on


@out_of_memory_advice(MEMORY_ADVICE)
def main() -> None:
    """Predict the training images; pixels with a score below the (class's) threshold stay unlabelled."""
    args = generate_args()
    processes = init_distributed(args.cpu)
    log_to_terminal(processes.is_main)
    log_idle_flags(args)
    pair = resolve_domains(args, scales="pseudo labels")
    target = prediction_target(pair, args)
    ids = label_ids(pair) if args.label_ids else None
    folder = args.save or pair.pseudo_folder(args.data_dir, args.set, args.threshold, args.portion)
    if processes.is_main:
        target.check(labels_required=False)
        log_stretched(target, args.input_size, "--input-size")
        check_apart("--save", folder, target, labels=args.save is not None)
        check_replaceable(folder, [prediction_name(name) for name in target.names])
    processes.broadcast(None, patient=True)  # wait for the checks
    device, _ = choose_device(args, processes)
    network = restore_network(args, device, processes)
    filled = FilledFolder(folder, args, target, processes, again="the same command goes on with the others")
    with filled.filling():
        of_class, total, images, columns = write_labels(args, target, ids, network, filled, device, processes)
    log.info("%s", format_class_shares(pair.classes, of_class, total, columns))
    share = 100 * sum(of_class) / total
    log.info("Labelled %.1f %% of the pixels of %d images: %s", share, images, folder)
    for doubt in doubts(Survey(pixels=np.array([*of_class, total - sum(of_class)])), pair.classes):
        advice = "raise --portion" if args.portion else "lower --threshold"
        log.warning("Warning: %s; %s or take a better snapshot.", doubt, advice)
    shutdown()


def write_labels(
    args: Namespace,
    target: SegmentationDataset,
    ids: np.ndarray | None,
    network: DeeplabMulti,
    filled: FilledFolder,
    device: torch.device,
    processes: Processes,
) -> tuple[list[int], int, int, dict[str, list[str]]]:
    """Label the images but those that an earlier start has labelled; with `ids` in label ids.

    Returns:
        The pixels of each class and of all, the number of images, more columns of the table of classes.
    """
    pixels = torch.zeros(args.num_classes + 1, dtype=torch.int64, device=device)  # the last: all
    done = [] if args.portion or ids is not None else processes.broadcast(filled.done())
    if done:
        log.info("%d of %d images were labelled by an earlier start.", len(done), len(target))
        target.names = target.names[~np.isin(target.names, done)]
        for index in processes.shard(len(done)):
            label = torch.from_numpy(IdReader().read(filled.folder / prediction_name(done[index]))).to(device)
            count(pixels, label)
    images = PredictionDataset(target, scaled_sizes(args.input_size, args.scales), labels=False)
    batches = prediction_batches(images, args, device, processes)
    balanced, weights = None, list(args.weights.values())
    if args.portion:
        maps = predict_maps(network, batches, device, *weights, processes)
        maps = progress(maps, len(images), processes)
        balanced = labelled = ClassBalancedLabels(maps, args, filled.folder, device, processes)
    else:
        labelled = confident(predict_all(network, batches, device, weights, processes), args.threshold)
    number = balanced.images if balanced else len(images)
    colors = palette(target.colors)
    with PredictionWriter(filled.folder, colors, False, label_ids=ids, note=filled.note) as writer:
        for name, prediction, soft in progress(labelled, number, processes):
            count(pixels, prediction.label)
            writer.write(name, prediction, soft)
    *of_class, total = processes.all_reduce_sum(pixels).tolist()  # after it every process has finished
    if balanced and processes.is_main:
        balanced.write_summary(filled.folder, of_class)
    images = balanced.images if balanced else len(filled.names)
    return of_class, total, images, balanced.columns() if balanced else {}


def count(pixels: Tensor, label: Tensor) -> None:
    """Add the pixels of each class, and at the end all, of a label to `pixels` (C + 1,)."""
    pixels[:-1] += class_pixel_counts(label, len(pixels) - 1)
    pixels[-1] += label.numel()


def confident(
    predictions: Iterable[tuple[str, Tensor, list[Prediction]]], least: float
) -> Iterator[tuple[str, Prediction, None]]:
    """The predictions without the labels of pixels whose score is below `least`."""
    for name, _, (prediction,) in predictions:
        if least < NO_THRESHOLD:
            unsure = prediction.score < least
            prediction = prediction._replace(label=prediction.label.masked_fill(unsure, IGNORE))
        yield name, prediction, None


if __name__ == "__main__":
    run_script(main)
