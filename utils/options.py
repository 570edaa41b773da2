"""Flags of the two trainings; those of other scripts are in prediction_options.py and tool_options.py.

Only what the flags alone show is checked; data, files and GPUs are the scripts' business. `--source` and
`--target` come first: they set the defaults of others, and a description file they name is read for that.
"""

import argparse
import sys
from pathlib import Path

from dataset import Adaptation, adapt, find_domain
from dataset.transforms import SCALES
from model.deeplab_multi import ARCHS, GROUPS, NORM_STYLES, STRIDE
from utils import flag_types
from utils.config import as_arguments, earlier_options
from utils.device import PRECISIONS
from utils.flag_types import format_size
from utils.losses import DIVERGENCES
from utils.parser import OneLineParser, add_domain_flags, add_switch, check_threshold

ON_DAMAGED = ("stop", "skip")
DEFAULT_PRECISION = "tf32"  # what torch does where nobody chooses


def stage1_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `train_ms.py`; sizes become (height, width), `gpu_ids` a list of numbers."""
    parser = OneLineParser("Stage I: adapt a network from labelled source to unlabelled target (MRNet).")
    argv = sys.argv[1:] if argv is None else argv
    earlier = earlier_options(argv)
    pair = _named_pair(argv, earlier)
    _add_training_flags(parser, pair, data_dir=pair.source.root, input_size=pair.source.source_size)
    return _checked_training_args(parser, argv, earlier)


def stage2_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `train_ft.py`: Stage I's and those of the rectified pseudo-label loss."""
    parser = OneLineParser("Stage II: fine-tune on pseudo labels rectified by their uncertainty.")
    argv = sys.argv[1:] if argv is None else argv
    earlier = earlier_options(argv)
    pair = _named_pair(argv, earlier)
    _add_training_flags(parser, pair, data_dir=pair.target.root, input_size=pair.target.pseudo_size)
    group = parser.add_argument_group("pseudo labels")
    group.add_argument(
        "--threshold",
        type=flag_types.fraction,
        default=pair.threshold,
        help="confidence threshold that the pseudo labels were made with; 1.0: every pixel has one "
        "(Rectifying, table 6)",
    )
    group.add_argument(
        "--pseudo-dir",
        type=Path,
        help="folder of the pseudo labels, of any model: train-id PNGs named as the images (Rectifying, "
        "table 5; default: where generate_plabel_cityscapes.py writes them)",
    )
    add_switch(
        group,
        "--conventional",
        "train as on true labels, with hard pixels, instead of rectifying (Rectifying, tables 2-4)",
    )
    group.add_argument(
        "--divergence",
        choices=DIVERGENCES,
        default="kl",
        help="how the two classifiers' disagreement is measured (Rectifying, table 9)",
    )
    args = _checked_training_args(parser, argv, earlier)
    check_threshold(parser, args.threshold, args.pseudo_dir, "--pseudo-dir")
    return args


def _named_pair(argv: list[str], earlier: tuple[Path, dict] | None) -> Adaptation:
    """What `--source` and `--target` name; the defaults of other flags follow from it."""
    parser = OneLineParser(add_help=False)
    add_domain_flags(parser, source="gta5", target="cityscapes")
    args, _ = parser.parse_known_args(_with_earlier(parser, argv, earlier))
    return adapt(find_domain(args.source), find_domain(args.target))


def _with_earlier(parser: OneLineParser, argv: list[str], earlier: tuple[Path, dict] | None) -> list[str]:
    """The command line with an earlier run's flags before it, which are checked on their own."""
    if earlier is None:
        return argv
    path, options = earlier
    parser.origin = f"{path}: "
    spelled, _ = as_arguments(options, parser)
    parser.parse_args(spelled)
    parser.origin = ""
    return spelled + argv


def _add_training_flags(
    parser: OneLineParser, pair: Adaptation, data_dir: Path, input_size: tuple[int, int]
) -> None:
    _add_network_flags(parser.add_argument_group("network"), num_classes=len(pair.colors))
    _add_data_flags(parser.add_argument_group("data"), pair, data_dir, format_size(input_size))
    _add_loss_flags(parser.add_argument_group("losses"))
    _add_optimiser_flags(parser.add_argument_group("optimisation"))
    _add_device_flags(parser.add_argument_group("device and repeatability"))
    _add_saving_flags(parser.add_argument_group("saving and going on"))
    _add_watching_flags(parser.add_argument_group("watching"))


def _add_network_flags(group, num_classes: int) -> None:
    add = group.add_argument
    add("--model", choices=["DeepLab"], default="DeepLab", help="family of the network")
    add("--arch", choices=ARCHS, default="resnet101", help="size of the network; mini is the demo's")
    add("--num-classes", type=flag_types.classes, default=num_classes, help="number of classes")
    add("--norm-style", choices=NORM_STYLES, default="bn", help="normalisation in the classifiers")
    add_switch(group, "--use-se", "squeeze and excitation in the classifiers")
    add(
        "--droprate",
        "--drop",
        type=flag_types.share,
        default=0.1,
        help="channel dropout in the classifiers (Rectifying, table 7)",
    )
    add_switch(group, "--train_bn", "train the affine parameters of the backbone's batch normalisation")
    add_switch(group, "--is-training", "update the backbone's BN statistics while training", default=True)
    add_switch(group, "--sync_bn", "batch normalisation over all processes that torchrun started")
    add(
        "--restore-from",
        type=flag_types.weights,
        metavar="SOURCE",
        default="imagenet",
        help="initial weights: a file, a URL, imagenet (torchvision's, converted) or none",
    )
    add_switch(group, "--not-restore-last", "start the classifiers afresh")


def _add_data_flags(group, pair: Adaptation, data_dir: Path, input_size: str) -> None:
    add = group.add_argument
    add_domain_flags(group, source="gta5", target="cityscapes")
    add("--data-dir", type=Path, default=data_dir, help="root of the labelled stream")
    add("--data-list", type=Path, help="names in it, one a line; without it the folder is scanned")
    add("--data-dir-target", type=Path, default=pair.target.root, help="root of the target stream")
    add("--data-list-target", type=Path, help="names in it, one a line")
    add("--set", type=flag_types.split, default="train", help="split of the target to train on")
    add(
        "--input-size",
        type=flag_types.size,
        default=input_size,
        help="width,height of the labelled images, pixels",
    )
    add(
        "--input-size-target",
        type=flag_types.size,
        default=format_size(pair.target.target_size),
        help="width,height of target images, pixels",
    )
    add(
        "--crop-size",
        type=flag_types.size,
        default="640,360",
        help="width,height of the crops of both streams, pixels",
    )
    add_switch(group, "--random-mirror", "mirror the target stream too (the labelled one always is)")
    add_switch(group, "--random-scale", "scale the target stream too (the labelled one always is)")
    add_switch(group, "--autoaug", "ImageNet AutoAugment on the labelled images")
    add_switch(group, "--autoaug_target", "ImageNet AutoAugment on the target images")
    add("--ignore-label", type=flag_types.byte, default=255, help="train id of pixels without a label")
    add(
        "--num-workers",
        type=flag_types.workers,
        help="decoding processes a stream (default: by the cores)",
    )


def _add_loss_flags(group) -> None:
    add = group.add_argument
    add(
        "--lambda-seg",
        type=flag_types.not_negative_float,
        default=0.1,
        help="weight of the auxiliary classifier",
    )
    add(
        "--lambda-adv-target1",
        type=flag_types.not_negative_float,
        default=0.0002,
        help="adversarial, auxiliary; both 0: no adversarial training (MRNet, table 2)",
    )
    add(
        "--lambda-adv-target2", type=flag_types.not_negative_float, default=0.001, help="adversarial, primary"
    )
    add(
        "--lambda-me-target",
        type=flag_types.not_negative_float,
        default=0.0,
        help="confidence-weighted entropy",
    )
    add(
        "--lambda-kl-target",
        type=flag_types.not_negative_float,
        default=0.0,
        help="memory regularization (MRNet, tables 2 and 3; in Stage II: Rectifying, table 10)",
    )
    add(
        "--reg-start",
        type=flag_types.not_negative,
        default=15000,
        help="iteration from which entropy and memory regularization count",
    )
    add_switch(group, "--class-balance", "raise the weight of classes with few pixels in the batch")
    add_switch(group, "--often-balance", "raise the weight of classes that are often absent")
    add("--max-value", type=flag_types.positive_float, default=2.0, help="the weight they are raised to")
    add(
        "--only-hard-label",
        type=flag_types.percent,
        default=0.0,
        help="learn only from pixels whose loss is above this percentile; 0: from all",
    )


def _add_optimiser_flags(group) -> None:
    add = group.add_argument
    add(
        "--batch-size",
        type=flag_types.positive,
        default=16,
        help="images of each stream a step, over all GPUs and processes",
    )
    add(
        "--iter-size",
        type=flag_types.positive,
        default=1,
        help="batches whose gradients are added up for an update",
    )
    add(
        "--learning-rate",
        type=flag_types.positive_float,
        default=2.5e-4,
        help="of the backbone; classifiers 10 times",
    )
    add("--learning-rate-D", type=flag_types.positive_float, default=1e-4, help="of the discriminators")
    add("--momentum", type=flag_types.share, default=0.9, help="of SGD")
    add("--weight-decay", type=flag_types.not_negative_float, default=5e-4, help="of SGD")
    add(
        "--power",
        type=flag_types.not_negative_float,
        default=0.9,
        help="of the polynomial decay of the rates",
    )
    add("--warm-up", type=flag_types.not_negative, default=0, help="iterations of linear warm-up")
    add("--num-steps", type=flag_types.positive, default=100000, help="iterations the rates decay over")
    add("--num-steps-stop", type=flag_types.positive, help="iteration to stop at (default: --num-steps)")
    add_switch(
        group, "--single-updates", "update each backbone parameter once a step (published: up to 4 times)"
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="of the network: full; TensorFloat-32, which is full but on NVIDIA's GPUs from Ampere on; mixed "
        "with bfloat16; mixed with half and loss scaling, CUDA only (docs/performance.md; default: tf32)",
    )
    add_switch(group, "--fp16", "the published switch: --precision fp16")
    add_switch(
        group,
        "--checkpointing",
        "compute residual blocks again in the backward pass instead of keeping what they computed: less "
        "memory, more time, the same result",
    )
    add_switch(group, "--compile", "the network through torch.compile, on one device; other dropout masks")


def _add_device_flags(group) -> None:
    add = group.add_argument
    add("--random-seed", type=flag_types.seed, default=1234, help="of weights, order and augmentation")
    add_switch(
        group,
        "--deterministic",
        "on a GPU use only operations that repeat to the bit, which is slower; a CPU's do anyway",
    )
    add(
        "--gpu-ids",
        type=flag_types.gpu_ids,
        default="0",
        help="GPUs to spread a batch over in one process; torchrun gives each process one",
    )
    add_switch(group, "--cpu", "compute on the CPU")


def _add_saving_flags(group) -> None:
    add = group.add_argument
    add("--snapshot-dir", type=Path, default="./snapshots/", help="folder of all that a run writes")
    add("--save-pred-every", type=flag_types.positive, default=5000, help="iterations between snapshots")
    add(
        "--keep",
        type=flag_types.not_negative,
        default=0,
        help="snapshots to keep, the latest ones; 0: all, as published",
    )
    add(
        "--save-state-every",
        type=flag_types.positive,
        default=1000,
        help="iterations between two saves of all that --resume needs, each in the place of the last",
    )
    add_switch(
        group,
        "--resume",
        "go on with the run in --snapshot-dir where it was last saved, to the bit; flags that are not given "
        "are that run's. Where nothing is saved yet, start",
    )
    add(
        "--config",
        type=Path,
        help="opts.yaml of an earlier run: its flags in place of the defaults; flags given override them",
    )
    add(
        "--on-damaged",
        choices=ON_DAMAGED,
        default=ON_DAMAGED[0],
        help="an image or label that cannot be used: stop with everything saved, or take another sample",
    )
    add("--max-damaged", type=flag_types.not_negative, default=10, help="files to skip before stopping")


def _add_watching_flags(group) -> None:
    add = group.add_argument
    add("--log-every", type=flag_types.positive, default=20, help="iterations between two lines of the log")
    add_switch(group, "--tensorboard", "write everything for TensorBoard, too", default=True)
    add("--log-dir", type=Path, default="./log", help="folder of TensorBoard's files")
    add(
        "--save-num-images",
        type=flag_types.not_negative,
        default=2,
        help="images in each of the training's pictures, which come with every snapshot; 0: no pictures",
    )
    add(
        "--pictures-every",
        type=flag_types.not_negative,
        default=1000,
        help="iterations between two pictures in TensorBoard; 0: none",
    )
    add(
        "--eval-every",
        type=flag_types.not_negative,
        default=0,
        help="iterations between two measurements of the target's validation mIoU, in one pass; 0: never",
    )
    add("--eval-set", type=flag_types.split, default="val", help="split of the target that is measured")
    add("--eval-list", type=Path, help="names in it, one a line, to measure fewer")
    add_switch(group, "--keep-best", "keep the network of the highest validation mIoU as <prefix>_best.pth")


def _checked_training_args(
    parser: OneLineParser, argv: list[str], earlier: tuple[Path, dict] | None
) -> argparse.Namespace:
    args = parser.parse_args(_with_earlier(parser, argv, earlier))
    if args.num_steps_stop is None:
        args.num_steps_stop = args.num_steps
    if args.num_steps_stop > args.num_steps:
        parser.error(
            f"--num-steps-stop {args.num_steps_stop} lies beyond --num-steps {args.num_steps}, where the "
            "learning rate is 0; raise --num-steps"
        )
    if args.fp16 and args.precision not in (None, "fp16"):
        parser.error(f"--fp16 is --precision fp16, not {args.precision}; give one of the two")
    args.precision = args.precision or ("fp16" if args.fp16 else DEFAULT_PRECISION)
    args.fp16 = args.precision == "fp16"
    if args.keep_best and not args.eval_every:
        parser.error("--keep-best needs the validation mIoU; give --eval-every too")
    if args.compile and args.checkpointing:
        parser.error("--compile chooses itself what to compute again; leave out --checkpointing")
    if args.ignore_label < args.num_classes:
        parser.error(f"--ignore-label {args.ignore_label} is one of the {args.num_classes} classes")
    if args.norm_style == "gn" and any(c % GROUPS for c in ARCHS[args.arch][2:]):
        parser.error(f"--norm-style gn needs channels in groups of {GROUPS}; choose another --arch")
    if args.norm_style == "in" and max(args.crop_size) <= STRIDE:
        parser.error(
            f"--crop-size {format_size(args.crop_size)}: --norm-style in needs a crop of more than "
            f"{STRIDE} pixels, one cell of the network"
        )
    largest = [SCALES[1] * side for side in args.input_size]
    _check_crop(parser, args.crop_size, largest, "--input-size, scaled by at most 1.2")
    _check_crop(parser, args.crop_size, args.input_size_target, "--input-size-target")
    return args


def _check_crop(parser: OneLineParser, crop: tuple[int, int], image: list[float], flag: str) -> None:
    """A crop that no image can fill is a mistake; one that some scales cannot fill is padded."""
    if crop[0] > image[0] or crop[1] > image[1]:
        parser.error(
            f"--crop-size {format_size(crop)} is larger than the image, {image[1]:g},{image[0]:g} "
            f"({flag}); lower the crop or raise the image"
        )
