"""Export a trained network to ONNX, and keep the file only if it computes what the network does.

    python export_onnx.py --restore-from ./snapshots/stage2/GTA5_25000.pth --save network.onnx

The input `images` is RGB uint8 (N, height, width, 3) of --input-size with N free; the outputs are `label`
uint8, `score` (0 to 1) and `uncertainty` (nats), (N, height, width) each. docs/use.md shows how to run it.
"""

from utils.script import run_script

import logging
from argparse import Namespace
from pathlib import Path

from deploy.onnx_file import check_onnx, load_onnxruntime, write_onnx
from deploy.segmenter import load_segmenter
from engine.run_log import log_to_terminal
from utils.atomic import atomic_write, check_kind
from utils.errors import UserError
from utils.flag_types import OneLineParser, boolean, format_size, size, text
from utils.inference import SingleScaleModel

log = logging.getLogger(__name__)


# fmt: off
def export_args(argv: list[str] | None = None) -> Namespace:
    """The flags."""
    parser = OneLineParser("Write a trained network as an ONNX file and check it on the CPU.")
    add = parser.group("export")
    add("--restore-from", text, None, "snapshot, with opts.yaml beside it", metavar="FILE", required=True)
    add("--save", Path, "./network.onnx", "file to write")
    add("--input-size", size, None, "size of its input (default: the training's --input-size-target)")
    add("--logits", boolean, False, "add the two classifiers' weighted logits as an output")
    return parser.parse_args(argv)
# fmt: on


def main() -> None:
    """Export to a temporary file, check it, then move it into place."""
    args = export_args()
    log_to_terminal()
    load_onnxruntime()
    if args.save.is_dir():
        raise UserError(f"--save {args.save}: is a folder; name a file such as {args.save / 'network.onnx'}")
    check_kind("--save", args.save, ".onnx")
    segmenter = load_segmenter(args.restore_from, "cpu", args.input_size)
    model, size = SingleScaleModel(segmenter.network, args.logits).eval(), segmenter.input_size

    def write(tmp: Path) -> None:
        log.info("Exporting for images of %s pixels.", format_size(size))
        write_onnx(tmp, model, size, segmenter.colors)
        differences = check_onnx(tmp, model, size)
        shown = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
        log.info("Largest differences on onnxruntime's CPU: %s", shown)

    atomic_write(args.save, write)
    log.info("%s: %.1f MB", args.save, args.save.stat().st_size / 1e6)


if __name__ == "__main__":
    run_script(main)
