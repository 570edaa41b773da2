"""Predict the target's validation images, score them against their labels, print IoU per class and mIoU.

    python evaluate_cityscapes.py --restore-from ./snapshots/stage2/GTA5_25000.pth
    python evaluate_cityscapes.py --restore-from … --report                  # and a page to look at
    python evaluate_cityscapes.py --restore-from … --weights 1:0.5,1:0,0:1   # classifiers side by side
    python evaluate_cityscapes.py --predictions ./predictions                # score files of any model

Source, target and classes are the snapshot's, unless --source or --target override them.

Writes for each image <name>.png (train ids), <name>_color.png, <name>_heatmap.png (uncertainty) and
<name>_score.png, or with --label-ids only <name>.png; for the set metrics.json, metrics.csv, images.csv,
image_counts.npz and, with --report, report.html (docs/results.md).
"""

from utils.script import run_script

import logging
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dataset import Adaptation, PredictionDataset, SegmentationDataset
from dataset.base import prediction_name
from dataset.domains import BUILT_IN
from dataset.labels import palette
from dataset.survey import check_scorable
from engine.evaluation import PixelCounts, Scored, predictions_in_files, summary, table
from engine.restore import (
    MEMORY_ADVICE,
    label_ids,
    log_stretched,
    prediction_batches,
    prediction_order,
    prediction_target,
    resolve_domains,
    restore_network,
)
from engine.result_folders import FilledFolder, check_apart, check_replaceable, refuse_unfinished
from engine.run_log import log_to_terminal, progress
from model.deeplab_multi import DeeplabMulti
from report.pages import write_evaluation
from report.result_folder import RESULT_FILES, read_result, write_result
from utils.atomic import resolve_path
from utils.device import choose_device
from utils.distributed import Processes, init_distributed, shutdown
from utils.flag_types import (
    PUBLISHED_WEIGHTS,
    OneLineParser,
    boolean,
    not_negative,
    positive,
    seed,
    share,
    weightings,
)
from utils.idle_flags import log_idle_flags
from utils.inference import predict_all, scaled_sizes
from utils.memory import out_of_memory_advice
from utils.options import add_prediction_flags
from utils.pictures import PredictionWriter
from utils.uncertainty import DROPOUT_PASSES, UNCERTAINTIES, UncertaintyGap

FILES = "files"  # title of the only column with --predictions
PAGE = "report.html"
log = logging.getLogger(__name__)


# fmt: off
def evaluate_args(argv: list[str] | None = None) -> Namespace:
    """The flags; None means: take it from the snapshot's opts.yaml."""
    parser = OneLineParser("Predict the target's validation images and print IoU per class and mIoU.")
    add_prediction_flags(parser, batchsize=16, split="val")
    add = parser.group("scores")
    add("--weights", weightings, PUBLISHED_WEIGHTS, "weights of primary:auxiliary classifier; a list such as "
        "1:0.5,1:0,0:1 is scored side by side, with pictures of the first (MRNet, table 1)")
    add("--uncertainty", UNCERTAINTIES, "kl", "measure for the heat maps and the uncertainty gap: the "
        "classifiers' divergence, or Monte-Carlo dropout (Rectifying, table 8)")
    add("--mc-passes", positive, DROPOUT_PASSES, "passes of Monte-Carlo dropout")
    add("--mc-droprate", share, None, "drop rate of Monte-Carlo dropout (default: as in training)")
    add("--random-seed", seed, 1234, "seed of Monte-Carlo dropout")
    add("--predictions", Path, None, "score the PNGs of train ids in this folder, named as the images, "
        "instead of running a network")
    add = parser.group("output")
    add("--save", Path, None, "output folder (default: ./result/cityscapes<name of the snapshot's folder>, "
        "for your own target <its name>_<name of the snapshot's folder>)")
    add("--report", boolean, False, "write report.html: tables, confusions, the worst and the best images")
    add("--report-images", not_negative, 4, "number of worst and of best images on the page")
    args = parser.parse_args(argv)
    if (args.restore_from is None) == (args.predictions is None):
        parser.error("--restore-from names a network to score, --predictions files; give one of the two")
    if args.label_ids and (args.predictions or args.report):
        flag = "--predictions" if args.predictions else "--report"
        parser.error(f"--label-ids writes label ids and nothing else, so it cannot go with {flag}")
    return args
# fmt: on


@out_of_memory_advice(MEMORY_ADVICE)
def main() -> None:
    """Score a network's predictions, or prediction files, with one confusion matrix over the set."""
    args = evaluate_args()
    processes = init_distributed(args.cpu)
    log_to_terminal(processes.is_main)
    log_idle_flags(args)
    pair = resolve_domains(args, scales="evaluation")
    data = prediction_target(pair, args)
    if processes.is_main:
        data.check(labels_required=True)
        if not args.predictions:
            log_stretched(data, args.input_size, "--input-size")
        if lack := check_scorable(data):
            log.warning("Warning: %s.", lack)
    gap = UncertaintyGap(len(pair.colors))
    # Files are scored on the CPU, unless several processes have to communicate on their devices.
    on_cpu = args.predictions and not processes.is_distributed
    device = torch.device("cpu") if on_cpu else choose_device(args, processes)[0]
    save = args.save or args.predictions or default_folder(pair, args.restore_from)
    if processes.is_main:
        check_apart("--save", save, data, labels=args.save is not None)
        if args.predictions:
            refuse_unfinished(args.predictions, maps=True)
        maps = [] if args.predictions else [prediction_name(name) for name in data.names]
        check_replaceable(save, [*maps, *RESULT_FILES])
    processes.broadcast(None, patient=True)  # wait for the checks
    network = None if args.predictions else restore_network(args, device, processes)
    filled = FilledFolder(save, args, data, processes, again="the same command starts over")
    with filled.filling():
        if args.predictions:
            titles = [FILES]
            scored = predictions_in_files(data, args.predictions, processes, device)
        else:
            titles = list(args.weights)
            ids = label_ids(pair) if args.label_ids else None
            scored = predictions_of_network(network, data, args, filled, ids, gap, processes, device)
        counts = PixelCounts(len(data), titles, len(pair.colors), device)
        order = prediction_order(len(data), processes)
        for index, image in zip(order, progress(scored, len(data), processes), strict=True):
            counts.add(index, *image)
        counts.gather(processes)
        gap.gather(processes, device)
        if processes.is_main:
            write_numbers(args, pair, data, counts, gap, save)
    if processes.is_main and args.report:
        write_evaluation(save / PAGE, read_result(save), data, args.report_images)
        log.info("The page: %s", save / PAGE)
    shutdown()


def default_folder(pair: Adaptation, snapshot: str) -> Path:
    """The default folder for the result of a snapshot: the published one, or that of your own target."""
    target = "cityscapes" if pair.target.name in BUILT_IN else f"{pair.target.prefix}_"
    return Path("./result") / (target + resolve_path(snapshot).parent.name)


def write_numbers(
    args: Namespace,
    pair: Adaptation,
    data: SegmentationDataset,
    counts: PixelCounts,
    gap: UncertaintyGap,
    save: Path,
) -> None:
    """Print the table and write the numbers."""
    result = summary(pair, counts, None if args.predictions else gap.value())
    log.info("%s", table(pair, counts, result, len(data)))
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
    write_result(save, result, data.names, counts, mean=next(iter(pair.means.values())))
    log.info("%d images: %s", len(data), save)


def predictions_of_network(
    network: DeeplabMulti,
    data: SegmentationDataset,
    args: Namespace,
    filled: FilledFolder,
    ids: np.ndarray | None,
    gap: UncertaintyGap,
    processes: Processes,
    device: torch.device,
) -> Iterator[Scored]:
    """Every image in `prediction_order`, on the device, with one prediction per pair of `--weights`.

    The first prediction's files are written to the folder, in train ids or in the label ids `ids` of these,
    and its uncertainty is added to `gap` on the way.
    """
    images = PredictionDataset(data, scaled_sizes(args.input_size, args.scales), labels=True)
    predictions = predict_all(
        network,
        prediction_batches(images, args, device, processes),
        device,
        list(args.weights.values()),
        processes,
        mirrored_uncertainty=True,
        uncertainty=args.uncertainty,
        passes=args.mc_passes,
        droprate=args.mc_droprate,
        seed=args.random_seed,
    )
    colors = palette(data.colors)
    with PredictionWriter(filled.folder, colors, True, label_ids=ids, note=filled.note) as writer:
        for name, label, weighted in predictions:
            writer.write(name, weighted[0])
            gap.add(label, weighted[0].label, weighted[0].uncertainty)
            yield Scored(label, [prediction.label for prediction in weighted], weighted[0].uncertainty)


if __name__ == "__main__":
    run_script(main)
