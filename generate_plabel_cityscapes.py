"""Write pseudo labels of the target's training images to the folder from which train_ft.py reads them.

    python generate_plabel_cityscapes.py --restore-from ./snapshots/stage1/GTA5_25000.pth

Each image gets <name>.png (train ids), <name>_color.png and <name>_heatmap.png (uncertainty).
"""

import logging
from argparse import Namespace
from pathlib import Path

import torch

from dataset import NO_THRESHOLD, PredictionDataset
from dataset.labels import IGNORE, palette
from engine.restore import label_ids, prediction_batches, prediction_target, resolve_domains, restore_network
from engine.run_log import log_to_terminal, progress
from engine.snapshots import record_result
from utils.device import choose_device
from utils.distributed import init_distributed, shutdown
from utils.errors import run_script
from utils.flag_types import PUBLISHED_WEIGHTS, OneLineParser, fraction, one_weighting
from utils.inference import predict_all, scaled_sizes
from utils.options import add_prediction_flags, check_threshold
from utils.pictures import PredictionWriter

log = logging.getLogger(__name__)


# fmt: off
def generate_args(argv: list[str] | None = None) -> Namespace:
    """The flags; None means: take it from the snapshot's opts.yaml."""
    parser = OneLineParser("Write pseudo labels for the target's training images.")
    add_prediction_flags(parser, batchsize=12, split="train")
    add = parser.group("pseudo labels")
    add("--weights", one_weighting, PUBLISHED_WEIGHTS, "weights of primary:auxiliary (MRNet, table 1)")
    add("--threshold", fraction, None, "pixels scoring below it get no label (255); 1.0: all get one "
        "(default: 0.9 from SYNTHIA and to RobotCar, else 1.0)")
    add("--save", Path, None, "output folder (default: where train_ft.py looks)")
    args = parser.parse_args(argv)
    parser.require(args.restore_from, "--restore-from is missing; name the snapshot to label with")
    if args.label_ids:
        parser.require(args.save, "--label-ids is not for train_ft.py; name another folder with --save")
        args.threshold = NO_THRESHOLD if args.threshold is None else args.threshold
    if args.threshold is not None:
        check_threshold(parser, args.threshold, args.save, "--save")
    return args
# fmt: on


def main() -> None:
    """Predict the training images; pixels with a score below the threshold stay unlabelled."""
    args = generate_args()
    processes = init_distributed(args.cpu)
    log_to_terminal(processes.is_main)
    pair = resolve_domains(args, scales="pseudo labels")
    target = prediction_target(pair, args)
    ids = label_ids(pair) if args.label_ids else None
    if processes.is_main:
        target.check(labels_required=False)
    device, _ = choose_device(args, processes)
    network = restore_network(args, device)
    images = PredictionDataset(target, scaled_sizes(args.input_size, args.scales), labels=False)
    batches = prediction_batches(images, args, device, processes)
    folder = args.save or pair.pseudo_folder(args.data_dir, args.set, args.threshold)
    predictions = predict_all(network, batches, device, [args.weights])
    pixels = torch.zeros(2, dtype=torch.int64, device=device)  # labelled and all
    with PredictionWriter(folder, palette(target.colors), scores=False, label_ids=ids) as writer:
        for name, _, (prediction,) in progress(predictions, len(images), processes):
            if args.threshold < NO_THRESHOLD:
                unsure = prediction.score < args.threshold
                prediction = prediction._replace(label=prediction.label.masked_fill(unsure, IGNORE))
            pixels[0] += (prediction.label != IGNORE).sum()
            pixels[1] += prediction.label.numel()
            writer.write(name, prediction)
    labelled, total = processes.all_reduce_sum(pixels).tolist()
    if processes.is_main:  # after the all-reduce: every process has finished
        record_result(folder, args)
    log.info("Labelled %.1f %% of the pixels of %d images: %s", 100 * labelled / total, len(images), folder)
    shutdown()


if __name__ == "__main__":
    run_script(main)
