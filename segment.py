"""Segment pictures, folders of pictures and videos with a trained network.

    python segment.py --restore-from ./snapshots/stage2/GTA5_25000.pth street.jpg walk/ drive.mp4 --save seen

Writes for each picture <name>.png (train ids), <name>_overlay.png (classes over the picture, with a legend)
and <name>_uncertainty.png (heat map with a colour bar), for each video <name>_overlay.mp4.
"""

import logging
from argparse import Namespace
from functools import partial

from PIL import Image

from dataset.images import decode_image
from deploy.inputs import PICTURE_OUTPUTS, VIDEO_OUTPUTS, Input, find_inputs
from deploy.legends import overlay_with_legend
from deploy.segmenter import Segmenter, load_segmenter
from deploy.video import convert_video
from engine.run_log import log_to_terminal, progress
from utils.atomic import atomic_write
from utils.device import choose_device
from utils.errors import run_script
from utils.prediction_options import segment_args

log = logging.getLogger(__name__)


def main() -> None:
    """Check all inputs, then segment one after the other."""
    args = segment_args()
    log_to_terminal()
    inputs = find_inputs(args.inputs, args.save)
    device, _ = choose_device(args)
    segmenter = load_segmenter(args.restore_from, device, args.input_size)
    for one in progress(inputs, len(inputs)):
        if one.is_video:
            segment_video(segmenter, one, args.fast)
        else:
            segment_picture(segmenter, one, args)
    log.info("%d inputs: %s", len(inputs), args.save)


def segment_picture(segmenter: Segmenter, one: Input, args: Namespace) -> None:
    """Write the train ids and the two pictures of a picture."""
    image = decode_image(one.path)
    result = segmenter(image, fast=args.fast)
    pictures = (
        Image.fromarray(result.label),
        segmenter.overlay(image, result, legend=True),
        segmenter.uncertainty(image, result, args.uncertainty_max),
    )
    for suffix, picture in zip(PICTURE_OUTPUTS, pictures, strict=True):
        atomic_write(one.output(suffix), partial(picture.save, format="PNG"), durable=False)


def segment_video(segmenter: Segmenter, one: Input, fast: bool) -> None:
    """Write the overlay of a video; its legend names every class, so that it keeps its place."""

    def convert(frame: Image.Image) -> Image.Image:
        label = segmenter(frame, fast=fast).label
        return overlay_with_legend(frame, label, segmenter.colors, every_class=True)

    for suffix in VIDEO_OUTPUTS:
        frames = convert_video(one.path, one.output(suffix), convert)
        log.info("%s: %d frames", one.path, frames)


if __name__ == "__main__":
    run_script(main)
