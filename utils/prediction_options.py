"""Flags of the scripts that predict with a trained network; what is None is the snapshot's to say."""

import argparse
from pathlib import Path

from utils import flag_types
from utils.flag_types import PUBLISHED_WEIGHTS
from utils.parser import OneLineParser, add_domain_flags, add_switch, check_threshold, require
from utils.uncertainty import DROPOUT_PASSES, UNCERTAINTIES

REPORT_IMAGES = 4  # of the worst and as many of the best on a page


def generate_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `generate_plabel_cityscapes.py`; what is None is the snapshot's to say."""
    parser = OneLineParser("Write pseudo labels for the target's training images.")
    _add_prediction_flags(parser, batchsize=12, split="train")
    labels = parser.add_argument_group("pseudo labels")
    labels.add_argument(
        "--weights",
        type=flag_types.one_weighting,
        default=PUBLISHED_WEIGHTS,
        help="of the two classifiers, primary:auxiliary (MRNet, table 1)",
    )
    labels.add_argument(
        "--threshold",
        type=flag_types.fraction,
        help="pixels scoring below it get no label (255); 1.0: every pixel gets one (default: 0.9 from "
        "SYNTHIA and for RobotCar, else 1.0)",
    )
    labels.add_argument("--save", type=Path, help="output folder (default: where train_ft.py looks)")
    args = parser.parse_args(argv)
    require(parser, args.restore_from, "--restore-from is missing; name the snapshot to label with")
    if args.threshold is not None:
        check_threshold(parser, args.threshold, args.save, "--save")
    return args


def evaluate_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `evaluate_cityscapes.py`; what is None is the snapshot's to say."""
    parser = OneLineParser("Predict the target's validation images and print IoU per class and mIoU.")
    _add_prediction_flags(parser, batchsize=16, split="val")
    scores = parser.add_argument_group("what is measured")
    scores.add_argument(
        "--weights",
        type=flag_types.weightings,
        default=PUBLISHED_WEIGHTS,
        help="of the two classifiers, primary:auxiliary; several (1:0.5,1:0,0:1) are scored side by side, "
        "the first one's pictures are written (MRNet, table 1)",
    )
    scores.add_argument(
        "--uncertainty",
        choices=UNCERTAINTIES,
        default="kl",
        help="the classifiers' divergence or Monte-Carlo dropout; for the heat maps and the uncertainty gap "
        "(Rectifying, table 8)",
    )
    scores.add_argument(
        "--mc-passes", type=flag_types.positive, default=DROPOUT_PASSES, help="of Monte-Carlo dropout"
    )
    scores.add_argument(
        "--mc-droprate", type=flag_types.share, help="drop rate of those passes (default: the training's)"
    )
    scores.add_argument("--random-seed", type=flag_types.seed, default=1234, help="of Monte-Carlo dropout")
    scores.add_argument(
        "--predictions",
        type=Path,
        help="score the train-id PNGs in this folder, named as the images, instead of running a network",
    )
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--save",
        type=Path,
        help="output folder (default: ./result/cityscapes<name of the snapshot's folder>)",
    )
    add_switch(written, "--report", "write report.html: tables, confusions, the worst and the best images")
    written.add_argument(
        "--report-images",
        type=flag_types.not_negative,
        default=REPORT_IMAGES,
        help="how many worst and best images",
    )
    args = parser.parse_args(argv)
    source = args.restore_from or args.predictions
    require(parser, source, "--restore-from is missing; name the snapshot to evaluate")
    if args.restore_from and args.predictions:
        parser.error("--predictions scores files and --restore-from a network; give one of the two")
    return args


def segment_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `segment.py`; flags and inputs may stand in any order."""
    parser = OneLineParser("Segment pictures, folders of pictures and videos with a trained network.")
    parser.usage = "%(prog)s [flags] INPUT [INPUT ...]"
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="picture, folder (with those below) or video")
    add("--restore-from", metavar="FILE", help="snapshot file; opts.yaml must lie beside it")
    add("--save", type=Path, default="./result/segmented", help="output folder")
    # No `add_switch`, which would take the input behind it for its value.
    add("--fast", action="store_true", help="one pass instead of the evaluation's four")
    add(
        "--input-size",
        type=flag_types.size,
        help="width,height that pictures are resized to (default: the training's --input-size-target, or as "
        "many pixels in the picture's own proportions where those are far from it)",
    )
    add(
        "--uncertainty-max",
        type=flag_types.positive_float,
        help="nats where the colours of the uncertainty end, to compare pictures (default: each one's own)",
    )
    add("--gpu", "--gpu-ids", dest="gpu_ids", type=flag_types.gpu_ids, default="0", help="GPU to use")
    add("--cpu", action="store_true", help="compute on the CPU")
    args = parser.parse_intermixed_args(argv)
    require(parser, args.restore_from, "--restore-from is missing; name the snapshot to segment with")
    return args


def export_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `export_onnx.py`."""
    parser = OneLineParser("Write a trained network as an ONNX file and check it on the CPU.")
    add = parser.add_argument
    add("--restore-from", metavar="FILE", help="snapshot file; opts.yaml must lie beside it")
    add("--save", type=Path, default="./network.onnx", help="the file to write")
    add(
        "--input-size",
        type=flag_types.size,
        help="width,height of the pictures that it will take (default: the training's --input-size-target)",
    )
    add_switch(parser, "--logits", "the two classifiers' joint logits as one more output")
    args = parser.parse_args(argv)
    require(parser, args.restore_from, "--restore-from is missing; name the snapshot to export")
    return args


def _add_prediction_flags(parser: OneLineParser, batchsize: int, split: str) -> None:
    network = parser.add_argument_group("network")
    network.add_argument("--restore-from", metavar="FILE", help="snapshot file; opts.yaml must lie beside it")
    network.add_argument(
        "--num-classes", type=flag_types.classes, help="number of classes (default: the snapshot's)"
    )
    data = parser.add_argument_group("data")
    add_domain_flags(data, source=None, target=None)
    add = data.add_argument
    add("--data-dir", type=Path, help="root of the target data (default: the target's own)")
    add("--data-list", type=Path, help="names in it, one a line; without it the folder is scanned")
    add("--set", type=flag_types.split, default=split, help="split of the data to predict")
    add(
        "--input-size",
        type=flag_types.size,
        help="width,height of scale 1 in pixels (default: the training's --input-size-target)",
    )
    add(
        "--scales",
        type=flag_types.scales,
        help="scales to predict at, each also mirrored (default: 1,1.25; evaluating RobotCar: 1,0.8)",
    )
    device = parser.add_argument_group("device")
    add = device.add_argument
    add(
        "--batchsize",
        "--batch-size",
        type=flag_types.positive,
        default=batchsize,
        help="images a pass; a CPU takes one",
    )
    add("--num-workers", type=flag_types.workers, help="decoding processes (default: by the cores)")
    add("--gpu", "--gpu-ids", dest="gpu_ids", type=flag_types.gpu_ids, default="0", help="GPU to use")
    add_switch(device, "--cpu", "compute on the CPU")
