"""Segment images, folders of images and videos with a trained network.

    python segment.py --restore-from ./snapshots/stage2/GTA5_25000.pth street.jpg walk/ drive.mp4 --save seen

Writes for each image <name>.png (train ids), <name>_overlay.png (classes over the image, with a legend) and
<name>_uncertainty.png (heat map with a colour bar), for each video <name>_overlay.mp4; with --label-ids only
<name>.png. Other files of these names are not replaced.
"""

from utils.script import run_script

import logging
from argparse import Namespace
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.images import check_image, decode_image
from dataset.transforms import stretched
from deploy.inputs import Input, find_inputs
from deploy.legends import overlay_with_legend
from deploy.segmenter import Segmenter, load_segmenter
from deploy.video import convert_video
from engine.restore import label_ids, read_snapshot, recognise
from engine.run_log import log_to_terminal, progress
from utils.atomic import atomic_write
from utils.device import PRECISIONS, choose_device
from utils.flag_types import OneLineParser, gpu, positive_float, size
from utils.idle_flags import log_idle_flags
from utils.memory import PRECISION_ADVICE, out_of_memory_advice
from utils.options import LABEL_IDS
from utils.pictures import check_only_label_ids, write_ids

MEMORY_ADVICE = f"give {PRECISION_ADVICE}, --fast, a smaller --input-size or --cpu"
log = logging.getLogger(__name__)


# fmt: off
def segment_args(argv: list[str] | None = None) -> Namespace:
    """The flags; flags and inputs may come in any order."""
    parser = OneLineParser("Segment pictures, folders and videos.", usage="[flags] INPUT [INPUT ...]")
    add = parser.add_argument  # switches take no value here: it could be the input after it
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="picture, folder (with subfolders) or video")
    add("--restore-from", metavar="FILE", required=True, help="snapshot, with opts.yaml beside it")
    add("--save", type=Path, default="./result/segmented", help="output folder")
    add("--label-ids", action="store_true", help=LABEL_IDS)
    add("--fast", action="store_true", help="one pass instead of the evaluation's four")
    add("--input-size", type=size, help="size that pictures are resized to (default: the training's "
        "--input-size-target, or as many pixels in the picture's proportions if those are very different)")
    add("--uncertainty-max", type=positive_float, help="nats at the end of the colour scale, to compare "
        "pictures (default: each picture's maximum)")
    add("--gpu", "--gpu-ids", dest="gpu_ids", type=gpu, default="0", help="GPU to use")
    add("--cpu", action="store_true", help="compute on the CPU")
    add("--precision", choices=PRECISIONS, default="tf32", help="arithmetic of the network; bf16, or fp16 on "
        "a card before RTX 30, is faster")
    args = parser.parse_intermixed_args(argv)
    return args
# fmt: on


@out_of_memory_advice(MEMORY_ADVICE)
def main() -> None:
    """Check all inputs, then segment one after another."""
    args = segment_args()
    log_to_terminal()
    log_idle_flags(args)
    inputs = find_inputs(args.inputs, args.save, args.label_ids)
    ids = None
    if args.label_ids:
        check_only_label_ids(args.save)
        ids = label_ids(recognise(*read_snapshot(args.restore_from), None, None, images=False))
    if args.input_size:
        sizes = Counter(check_image(item.path) for item in inputs if not item.is_video)
        if line := stretched(sizes, args.input_size):
            log.warning("--input-size: %s.", line)
    device, _ = choose_device(args)
    segmenter = load_segmenter(args.restore_from, device, args.input_size, args.precision)
    for item in progress(inputs, len(inputs)):
        if item.is_video:
            segment_video(segmenter, item, args)
        else:
            segment_image(segmenter, item, args, ids)
    log.info("%d inputs: %s", len(inputs), args.save)


def segment_image(segmenter: Segmenter, item: Input, args: Namespace, ids: np.ndarray | None) -> None:
    """Write the train ids, the overlay and the uncertainty of one image, or only its label ids `ids`."""
    image = decode_image(item.path)
    result = segmenter(image, fast=args.fast)
    write_ids(item.outputs[0], result.label if ids is None else ids[result.label])
    if ids is not None:
        return
    written = (
        segmenter.overlay(image, result, legend=True),
        segmenter.uncertainty(image, result, args.uncertainty_max),
    )
    for path, output in zip(item.outputs[1:], written, strict=True):
        atomic_write(path, partial(output.save, format="PNG"), durable=False)


def segment_video(segmenter: Segmenter, item: Input, args: Namespace) -> None:
    """Write the overlay of every frame, above one legend of all classes."""

    def convert(frame: Image.Image) -> Image.Image:
        label = segmenter(frame, fast=args.fast).label
        return overlay_with_legend(frame, label, segmenter.colors, every_class=True)

    for path in item.outputs:
        convert_video(item.path, path, convert)


if __name__ == "__main__":
    run_script(main)
