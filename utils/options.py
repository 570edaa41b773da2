"""Flags of the two trainings, flags that the predicting scripts share, and `opts.yaml`.

One line per flag: name, type, default, help. Only values are checked here; the scripts check data, files and
GPUs. Flags whose default depends on `--source` and `--target` are None until `_fill_in`; the types are in
utils/flag_types.py, the flags of one script alone are in that script.
"""

import argparse
import logging
import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import yaml

from dataset import SOURCES, TARGETS, Adaptation, adapt, find_domain
from dataset.cityscapes import THINGS
from dataset.domains import SWA_BATCH, SWA_BATCH_SYNTHIA
from dataset.labels import Colors
from dataset.pairs import SCALES as PAIR_SCALES
from dataset.transforms import SCALES
from dataset.yaml_file import load_yaml
from model import fc_discriminator
from model.deeplab_multi import ARCHS, GROUPS, NORM_STYLES, STRIDE
from model.timm_backbone import make_plan
from utils import flag_types as types
from utils.adversaries import ADVERSARIES
from utils.atomic import atomic_write
from utils.averaging import MEASURES
from utils.contrast import VIEWS
from utils.device import PRECISIONS
from utils.errors import UserError
from utils.flag_types import OneLineParser, boolean, format_size
from utils.idle_flags import refuse_idle_flags
from utils.losses import DIVERGENCES, GANS
from utils.optim import OPTIMIZERS
from utils.self_training import PSEUDO_WEIGHTS

OPTIONS_FILE = "opts.yaml"
NETWORK_OPTIONS = ("num_classes", "use_se", "train_bn", "norm_style", "droprate", "arch")  # of `DeeplabMulti`
SHAPING_OPTIONS = ("num_classes", "use_se", "norm_style", "arch")  # a snapshot loads only with the same
CALL_OPTIONS = ("config", "resume")  # say what to do with a run, so they are not written to opts.yaml
LAMBDA_LOCAL, LAMBDA_LOCAL_SYNTHIA = 40.0, 10.0  # CLAN's
DEFAULT_PRECISION = "tf32"  # torch's own default for convolutions
LABEL_IDS = (
    "write nothing but one PNG of label ids per image, as Cityscapes' test server takes them, instead of "
    "train ids: the first id of each class in the target's table (docs/results.md)"
)
OWN_DATA = "or a description file or folder of your own data (docs/data.md)"
log = logging.getLogger(__name__)


def stage1_args(argv: list[str] | None = None) -> Namespace:
    """Flags of `train_ms.py`; sizes are (height, width), `gpu_ids` is a list of integers."""
    parser = OneLineParser("Stage I: adapt a network from labelled source to unlabelled target (MRNet).")
    _add_training_flags(parser)
    _add_online_flags(parser)
    args = _parse_with_earlier(parser, argv)
    pair = adapt(find_domain(args.source), find_domain(args.target))
    _fill_in(args, pair, data_dir=pair.source.root, input_size=pair.source.source_size)
    _check_training(parser, args)
    if args.lambda_fd or args.fd_classes:
        args.fd_classes = _class_ids(parser, args.fd_classes, pair.classes)
    _check_online(parser, args)
    return args


# fmt: off
def stage2_args(argv: list[str] | None = None) -> Namespace:
    """Flags of `train_ft.py`: Stage I's and those of the rectified pseudo-label loss."""
    parser = OneLineParser("Stage II: fine-tune on pseudo labels rectified by their uncertainty.")
    _add_training_flags(parser)
    _add_pseudo_label_flags(parser)
    parser.add_argument("--self-training", nargs="?", const=True, type=boolean, help=argparse.SUPPRESS)
    args = _parse_with_earlier(parser, argv)
    if vars(args).pop("self_training"):
        parser.error("--self-training learns from the labelled source: train_ms.py has it")
    pair = adapt(find_domain(args.source), find_domain(args.target))
    _fill_in(args, pair, data_dir=pair.target.root, input_size=pair.target.pseudo_size)
    _fill_in(args, pair, input_size_source=pair.source.source_size)
    _check_training(parser, args)
    if args.portion:
        check_portion(parser, args.portion, args.threshold, args.pseudo_dir, "--pseudo-dir")
    else:
        args.threshold = pair.threshold if args.threshold is None else args.threshold
        check_threshold(parser, args.threshold, args.pseudo_dir, "--pseudo-dir")
    return args


def _add_network_flags(parser: OneLineParser) -> None:
    add = parser.group("network")
    add("--model", ["DeepLab"], "DeepLab", "family of the network")
    add("--arch", types.arch, "resnet101", "resnet101 (published), mini (the demo's) or a "
        "backbone of timm such as timm/convnext_tiny (docs/use.md)")
    add("--num-classes", types.integer(1, 255), None, "number of classes (default: the source's)")
    add("--norm-style", NORM_STYLES, "bn", "normalisation in the classifiers")
    add("--use-se", boolean, False, "squeeze and excitation in the classifiers")
    add("--droprate --drop", types.share, 0.1, "channel dropout in the classifiers (Rectifying, table 7)")
    add("--train_bn", boolean, False, "train the affine parameters of the backbone's batch normalisation")
    add("--is-training", boolean, True, "update the backbone's BN statistics while training")
    add("--sync_bn", boolean, False, "batch statistics of all GPUs; needs torchrun with one GPU per process")
    add("--restore-from --restore", types.text, "imagenet",
        "initial weights: a file, a URL, imagenet (torchvision's, converted; timm's own) or none",
        metavar="SOURCE")
    add("--not-restore-last", boolean, False, "initialise the classifiers at random")


def _add_training_flags(parser: OneLineParser) -> None:
    _add_network_flags(parser)

    add = parser.group("data")
    add_domain_flags(add, source="gta5", target="cityscapes")
    add("--data-dir", Path, None, "root of the labelled stream (default: its data set's)")
    add("--data-list", Path, None, "its images, one name per line; without it the folder is scanned")
    add("--data-dir-target", Path, None, "root of the target stream (default: its data set's)")
    add("--data-list-target", Path, None, "its images, one name per line")
    add("--set", types.split, "train", "split of the target to train on")
    add("--input-size", types.size, None, "size of the labelled images (default: the data set's)")
    add("--input-size-target", types.size, None, "size of the target images (default: the data set's)")
    add("--crop-size", types.size, "640,360", "size of the crops of both streams")
    add("--random-mirror", boolean, False, "mirror the target stream too (the labelled stream always is)")
    add("--label-scales", types.scale_range, "0.8,1.2", "range of the random scale of labelled images")
    add("--random-scale", boolean, False, "scale the target stream too (the labelled stream always is)")
    add("--autoaug", boolean, False, "ImageNet AutoAugment on the labelled images")
    add("--autoaug_target", boolean, False, "ImageNet AutoAugment on the target images")
    add("--ignore-label", types.integer(0, 255), 255, "train id of pixels without a label")
    add("--num-workers", types.workers, None, "decoding processes per stream (default: by cores)")

    add = parser.group("losses")
    add("--lambda-seg", types.not_negative_float, 0.1, "weight of the auxiliary classifier's loss")
    add("--lambda-adv-target1", types.not_negative_float, 0.0002,
        "adversarial loss, auxiliary; both 0: no adversarial training (MRNet, table 2)")
    add("--lambda-adv-target2", types.not_negative_float, 0.001, "adversarial loss, primary")
    add("--lambda-me-target", types.not_negative_float, 0.0, "confidence-weighted entropy")
    add("--lambda-kl-target", types.not_negative_float, 0.0,
        "memory regularization (MRNet, tables 2 and 3; in Stage II: Rectifying, table 10)")
    add("--reg-start", types.not_negative, 15000, "first iteration with entropy and memory regularization")
    add("--class-balance", boolean, False, "raise the weight of classes with few pixels in the batch")
    add("--often-balance", boolean, False, "raise the weight of classes that are often absent")
    add("--max-value", types.positive_float, 2.0, "the weight that both raise a class to")
    add("--only-hard-label", types.percentile, 0.0, "learn from losses above this percentile; 0: all")

    add = parser.group("adversaries (AdaptSegNet, CLAN, docs/methods.md)")
    add("--adversarial", ADVERSARIES, "mrnet", "system whose discriminators and adversarial losses are used")
    add("--gan", GANS, "Vanilla", "AdaptSegNet's loss: cross entropy or least squares",
        type=types.any_case(GANS))
    add("--lambda-local", types.not_negative_float, None,
        f"CLAN: weight of the disagreement in a pixel's weight (default: {LAMBDA_LOCAL:g}; from SYNTHIA "
        f"{LAMBDA_LOCAL_SYNTHIA:g})")
    add("--epsilon", types.not_negative_float, 0.4, "CLAN: added to that; both count after --warm-up")
    add("--lambda-weight", types.not_negative_float, 0.0, "keeps the classifiers' weights apart (CLAN 0.01)")
    add("--focal", types.not_negative_float, 0.0, "exponent of the focal loss (CLAN 2); 0: cross entropy")

    add = parser.group("contrast (PiPa, docs/methods.md)")
    add("--lambda-pixel", types.not_negative_float, 0.0, "of labelled pixels by class (published: 0.1)")
    add("--lambda-patch", types.not_negative_float, 0.0, "of two views of target images (published: 0.1)")
    add("--patch-size", types.size, "360,360", "size of the views, multiples of 8")
    add("--patch-start", types.not_negative, 10000, "first iteration with views")

    add = parser.group("optimisation")
    add("--batch-size", types.positive, 16, "images per step and stream, over all GPUs and processes")
    add("--iter-size", types.positive, 1, "batches per update (gradient accumulation)")
    add("--optimizer", OPTIMIZERS, None, "of the network; each has its own default rate, decay and warm-up "
        "(default: sgd; adamw for backbones of timm without batch normalisation)")
    add("--learning-rate", types.positive_float, None,
        "of the backbone; 10 times that for the classifiers (default: 2.5e-4; adamw: 6e-5)")
    add("--learning-rate-D", types.positive_float, 1e-4, "of the discriminators")
    add("--momentum", types.share, 0.9, "momentum of SGD")
    add("--nesterov", boolean, True, "Nesterov's momentum; off for CBST, CRST, AdaptSegNet and CLAN")
    add("--weight-decay", types.not_negative_float, None, "weight decay (default: 5e-4; adamw: 0.01)")
    add("--power", types.not_negative_float, 0.9, "exponent of the polynomial decay of the rates")
    add("--warm-up", types.not_negative, None,
        "iterations of linear warm-up (default: 0; adamw: 1500, at most a twentieth of --num-steps)")
    add("--warm-up-start", types.fraction, 0.1, "share of the rate that it starts from")
    add("--warm-up-D", boolean, False, "warm up the discriminators' rate too")
    add("--num-steps", types.positive, 100000, "iterations over which the rates decay")
    add("--num-steps-stop", types.positive, None, "iteration to stop at (default: --num-steps)")
    add("--single-updates", boolean, False, "update the backbone once per step (published: up to 4 times)")
    add("--precision", PRECISIONS, None,
        f"arithmetic of the network; fp16 needs CUDA (docs/performance.md; default: {DEFAULT_PRECISION})")
    add("--fp16", boolean, False, "the published switch: --precision fp16")
    add("--checkpointing", boolean, False, "recompute blocks in the backward pass: less memory, slower")
    add("--compile", boolean, False, "torch.compile the network, on one device only; dropout masks differ")

    add = parser.group("averages of the network, sampling of the target (AdaBoost_Seg, docs/methods.md)")
    add("--swa", boolean, False, "save averages of the network too, as <prefix>_<iteration>_average.pth")
    add("--swa_start --swa-start", types.not_negative, 0, "iteration from which networks are averaged")
    add("--swa_every --swa-every", types.positive, 5000, "iterations between averaged networks")
    add("--ema", types.share, 0.0, "weight of the average when a network enters it; 0: equal weights")
    add("--swa-batch", types.positive, None,
        f"images per batch of the BN statistics and the sampler (default: {SWA_BATCH}; from SYNTHIA "
        f"{SWA_BATCH_SYNTHIA})")
    add("--adaboost", boolean, False, "draw target images on which the classifiers disagree more often")
    add("--adatype", MEASURES, "variance", "measure of their disagreement")
    add("--recent", boolean, False, "measure it with the network itself instead of the average")
    add("--adaboost-temperature", types.positive_float, 1.0, "divides it; lower: less uniform sampling")
    add("--cosine", boolean, False, "from --swa_start on let the rates of the network fall in half a cosine "
        "per --save-pred-every")

    add = parser.group("device and repeatability")
    add("--random-seed", types.seed, 1234, "seed of weights, order and augmentation")
    add("--deterministic", boolean, False, "bit-reproducible operations on a GPU, which are slower")
    add("--gpu-ids", types.gpu_ids, "0", "GPUs to split each batch over; torchrun assigns one per process")
    add("--cpu", boolean, False, "compute on the CPU")

    add = parser.group("saving and resuming")
    add("--snapshot-dir", Path, "./snapshots/", "folder of everything that the run writes")
    add("--save-pred-every", types.positive, 5000, "iterations between snapshots")
    add("--keep", types.not_negative, 0, "number of latest snapshots to keep; 0: all, as published")
    add("--save-state-every", types.positive, 1000, "iterations between saves of the state for --resume")
    add("--resume", boolean, False, "resume the run in --snapshot-dir exactly, with its flags where none are "
        "given; starts a new run if none is saved")
    add("--config", Path, None, "opts.yaml of an earlier run, whose values replace the defaults")

    add = parser.group("monitoring")
    add("--log-every", types.positive, 20, "iterations between log lines")
    add("--tensorboard", boolean, True, "write TensorBoard files too")
    add("--log-dir", Path, "./log", "folder of the TensorBoard files")
    add("--save-num-images", types.not_negative, 2, "images in each snapshot's picture; 0: no pictures")
    add("--eval-every", types.not_negative, 0, "iterations between validations (single-scale mIoU); 0: never")
    add("--eval-set", types.split, "val", "split of the target to validate on")
    add("--eval-list", Path, None, "its images, one name per line, to validate on fewer")
    add("--keep-best", boolean, False, "keep the network of the highest validation mIoU as <prefix>_best.pth")


def _add_pseudo_label_flags(parser: OneLineParser) -> None:
    """Add the flags of `train_ft.py` alone."""
    add = parser.group("pseudo labels")
    add("--threshold", types.threshold, None, "confidence threshold of the labels; 1 and the published tags "
        "97 and 777: every pixel has one (Rectifying, table 6; default: 0.9 from SYNTHIA and to RobotCar, "
        "else 1.0)")
    add("--pseudo-dir", Path, None, "folder of pseudo labels made by any model: PNGs of train ids, named as "
        "the images (Rectifying, table 5; default: where generate_plabel_cityscapes.py writes them)")
    add("--conventional", boolean, False, "train as Stage I does on true labels (Rectifying, tables 2-4)")
    add("--divergence", DIVERGENCES, "kl", "measure of the classifiers' disagreement (Rectifying, table 9)")
    add = parser.group("self-training (CBST, CRST)")
    add("--portion", types.fraction, 0.0, "labels have a threshold for each class, made with the same "
        "--portion; 0: off")
    add("--lr-weight-ent", types.not_negative_float, 0.0, "labels are soft, made with the same value (LRENT)")
    add("--mr-weight-kld", types.not_negative_float, 0.0, "smooth predictions on pseudo-labelled pixels"
        " (MRKLD); counts twice as published: 0.1 weighs the cross entropy to a uniform distribution by 0.01")
    add("--mr-weight-src", types.not_negative_float, 0.0, "the same on source images, times --mr-weight-kld")
    add("--source-portion", types.fraction, 0.0, "share of the source's images to mix in, with true labels")
    add("--source-dir", Path, None, "root of the source (default: its data set's)")
    add("--input-size-source", types.size, None, "size of its images (default: the data set's)")
    add("--mine-chance", types.fraction, 0.0, "probability of a crop around a class that is rare in the "
        "predictions (CBST); other crops are then random")


def _add_online_flags(parser: OneLineParser) -> None:
    add = parser.group("online self-training (DACS, DAFormer, MIC; docs/methods.md)")
    add("--self-training", boolean, False,
        "learn from source pasted into target, labelled by a teacher that averages the network")
    add("--teacher-alpha", types.share, 0.999, "momentum of the teacher (DACS: 0.99)")
    add("--pseudo-threshold", types.fraction, 0.968, "confidence that makes a target pixel a sure one")
    add("--pseudo-weight", PSEUDO_WEIGHTS, "share",
        "weight of target pixels: the batch's share of sure pixels, 1 or 0 as a pixel is sure, none, exp(-V) "
        "by the teacher's uncertainty V, or both: share times uncertainty")
    add("--pseudo-margins", types.rows, "0,0",
        "rows at the top and the bottom of target crops without weight (Cityscapes at 1024,512: 15,120)")
    add("--lambda-mix", types.positive_float, 1.0, "weight of the loss on mixed images")
    add("--lambda-mask", types.not_negative_float, 0.0,
        "weight of the loss on target images with hidden blocks (MIC), also without --self-training; 0: off")
    add("--mask-ratio", types.share, 0.7, "share of the blocks that are hidden")
    add("--mask-block", types.positive, 32, "side of a block in pixels")
    add("--jitter", types.jitter, 0.2, "colour jitter of mixed and masked images, its strength (DACS: 0.25)")
    add("--jitter-chance", types.fraction, 0.8, "probability of the jitter in a step")
    add("--blur-chance", types.fraction, 0.5, "probability of a Gaussian blur in a step")
    add("--lambda-fd", types.not_negative_float, 0.0,
        "distance of features to an ImageNet network's on source things (DAFormer: 0.005); 0: off")
    add("--fd-classes", types.names, None, "their classes, names or train ids (default: Cityscapes' things)")
    add("--imnet-from", types.text, None, "weights of that network, as for --restore-from (default: those, "
        "if they have no classifiers; else imagenet)", metavar="SOURCE")
    add("--rcs", types.not_negative_float, 0.0,
        "draw source images by class, rare ones more often, at this temperature (DAFormer: 0.01); 0: off")
    add("--rcs-pixels", types.not_negative, 3000, "an image drawn for a class has more pixels of it")
    add("--rcs-crop", types.not_negative_float, 0.5, "the same for its crop, as a share of --rcs-pixels")


def add_domain_flags(add: Callable, source: str | None, target: str | None) -> None:
    """`--source` and `--target`; a default of None means: take it from the snapshot."""
    default = "" if source else " (default: the snapshot's)"
    add("--source", types.source, source, f"labelled domain, names the snapshots: {', '.join(SOURCES)}, "
        f"{OWN_DATA}{default}")
    add("--target", types.target, target, f"domain to adapt to: {', '.join(TARGETS)}, "
        f"{OWN_DATA}{default}")


def add_prediction_flags(parser: OneLineParser, batchsize: int, split: str) -> None:
    """What pseudo labels and evaluation share; None means: take it from the snapshot's opts.yaml."""
    add = parser.group("network")
    add("--restore-from", types.text, None, "snapshot, with opts.yaml beside it", metavar="FILE")
    add("--num-classes", types.integer(1, 255), None, "number of classes (default: the snapshot's)")
    add = parser.group("data")
    add_domain_flags(add, source=None, target=None)
    add("--data-dir", Path, None, "root of the target data (default: its data set's)")
    add("--data-list", Path, None, "images, one name per line; without it the folder is scanned")
    add("--set", types.split, split, "split of the data to predict")
    add("--label-ids", boolean, False, LABEL_IDS)
    add("--input-size", types.size, None, "size at scale 1 (default: the training's --input-size-target)")
    add("--scales", types.scales, None,
        "scales to predict at, each also mirrored (default: 1,1.25; evaluating RobotCar: 1,0.8)")
    add = parser.group("device")
    add("--batchsize --batch-size", types.positive, batchsize, "images per pass on a GPU; a CPU takes one")
    add("--num-workers", types.workers, None, "decoding processes (default: by cores)")
    add("--gpu --gpu-ids", types.gpu, "0", "GPU to use", dest="gpu_ids")
    add("--cpu", boolean, False, "compute on the CPU")
    add("--precision", PRECISIONS, "fp32", "arithmetic of the network; the others are faster on a GPU")
# fmt: on


def _fill_in(args: Namespace, pair: Adaptation, **defaults: object) -> None:
    """Give the flags that are still None the defaults that follow from the domains and other flags."""
    if args.optimizer is None:
        args.optimizer = "sgd" if args.arch in ARCHS or make_plan(args.arch).batch_norm else "adamw"
    defaults |= dict(
        num_classes=len(pair.colors),
        data_dir_target=pair.target.root,
        input_size_target=pair.target.target_size,
        num_steps_stop=args.num_steps,
        **OPTIMIZERS[args.optimizer],
    )
    defaults["warm_up"] = min(defaults["warm_up"], args.num_steps // 20)
    if args.swa or args.adaboost:
        defaults["swa_batch"] = pair.extra_passes.batch
    if args.adversarial == "clan":
        defaults["lambda_local"] = LAMBDA_LOCAL_SYNTHIA if pair.source.name == "synthia" else LAMBDA_LOCAL
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _check_training(parser: OneLineParser, args: Namespace) -> None:
    """Refuse combinations of flags that cannot train."""
    if args.num_steps_stop > args.num_steps:
        parser.error(f"--num-steps-stop {args.num_steps_stop} is beyond --num-steps; raise the latter")
    if args.fp16 and args.precision not in (None, "fp16"):
        parser.error(f"--fp16 means --precision fp16, not {args.precision}; give one of the two")
    args.precision = args.precision or ("fp16" if args.fp16 else DEFAULT_PRECISION)
    args.fp16 = args.precision == "fp16"
    refuse_idle_flags(parser, args)
    if (args.swa or args.adaboost or args.cosine) and args.swa_start >= args.num_steps_stop:
        parser.error(f"--swa-start: the training stops at {args.num_steps_stop}; choose an earlier iteration")
    _check_adversaries(parser, args)
    if args.compile and args.checkpointing:
        parser.error("--compile already decides what to recompute; leave out --checkpointing")
    if args.ignore_label < args.num_classes:
        parser.error(f"--ignore-label {args.ignore_label} is one of the {args.num_classes} classes")
    _check_network(parser, args)
    largest = max(getattr(args, "label_scales", SCALES))
    images = {
        f"--input-size, scaled by at most {largest}": [largest * side for side in args.input_size],
        "--input-size-target": args.input_size_target,
    }
    for flag, (height, width) in images.items():  # a crop that only some scales can fill is padded
        if args.crop_size[0] > height or args.crop_size[1] > width:
            crop, image = format_size(args.crop_size), f"{width:g},{height:g}"
            parser.error(f"--crop-size {crop} is larger than the image, {image} ({flag}); reduce it")


def _check_network(parser: OneLineParser, args: Namespace) -> None:
    """Refuse flags that do not fit the network, its size or its cells."""
    plan = None if args.arch in ARCHS else make_plan(args.arch)
    if plan and args.sync_bn:
        parser.error("--sync_bn does not know the batch normalisation of timm; leave it out")
    if plan and args.checkpointing and not plan.checkpointing:
        parser.error(f"--checkpointing: recomputing {args.arch} would not give the same; leave it out")
    sizes, stride = (plan.sizes, min(plan.strides)) if plan else (ARCHS[args.arch], STRIDE)
    if args.norm_style == "gn" and any(c % GROUPS for c in sizes[2:]):
        parser.error(f"--norm-style gn needs channels in groups of {GROUPS}; choose another --arch")
    if args.lambda_pixel and (cells := math.prod(side // stride + 1 for side in args.crop_size)) <= VIEWS:
        size = format_size(args.crop_size)
        parser.error(f"--lambda-pixel needs more than {VIEWS} cells, --crop-size {size} has {cells}")
    if getattr(args, "lambda_fd", 0) and any(side % stride for side in args.crop_size):  # Stage I's
        parser.error(f"--lambda-fd compares cells of {stride} pixels; give a --crop-size of multiples of it")
    if args.lambda_patch:
        _check_patches(parser, args, stride)


def _check_patches(parser: OneLineParser, args: Namespace, stride: int) -> None:
    """Refuse sizes of the views that do not fit the network's cells or the images."""
    if stride != STRIDE:
        parser.error(f"--lambda-patch needs cells of {STRIDE} pixels; --arch {args.arch} has {stride}")
    if any(side % STRIDE for side in args.patch_size):
        parser.error(f"--patch-size: cells are {STRIDE} pixels apart; give multiples of {STRIDE}")
    smallest = [int(PAIR_SCALES[0] * side) for side in args.input_size_target]
    if args.patch_size[0] > smallest[0] or args.patch_size[1] > smallest[1]:
        parser.error(f"--patch-size is larger than the smallest image, {format_size(smallest)}; reduce it")


def _check_online(parser: OneLineParser, args: Namespace) -> None:
    """Refuse margins that are not those of the target images, and a feature distance to random features."""
    height, margins = args.crop_size[0], args.pseudo_margins
    if any(margins) and (height != args.input_size_target[0] or args.random_scale):
        parser.error("--pseudo-margins needs crops of the target's height without --random-scale; give 0,0")
    if args.lambda_fd and args.imnet_from == "none":
        parser.error("--imnet-from none: random features are no reference; name a file, a URL or imagenet")
    if sum(margins) >= height:
        parser.error(f"--pseudo-margins leaves no row of a crop of {height} rows; give fewer")


def _class_ids(parser: OneLineParser, names: list[str] | None, classes: tuple[str, ...]) -> list[int]:
    """The train ids of --fd-classes, by default of the classes that are named like Cityscapes' things."""
    names = names or [name for name in classes if name in THINGS]
    ids = {name: index for index, name in enumerate(classes)}
    ids |= {str(index): index for index in range(len(classes))}
    unknown = [name for name in names if name not in ids]
    if unknown or not names:
        problem = f"{unknown[0]} is no class" if unknown else "no class is named like a thing of Cityscapes"
        parser.error(f"--fd-classes: {problem}; name some of {', '.join(classes)}")
    return sorted({ids[name] for name in names})


def _check_adversaries(parser: OneLineParser, args: Namespace) -> None:
    """Refuse a weight of a discriminator that CLAN lacks, and crops too small for a discriminator."""
    if args.adversarial == "mrnet":
        return
    if args.adversarial == "clan" and args.lambda_adv_target1:
        parser.error("--adversarial clan has one discriminator, the second; give --lambda-adv-target1 0")
    if (side := fc_discriminator.STRIDE) > min(args.crop_size):
        parser.error(f"--adversarial {args.adversarial} needs a --crop-size with sides of at least {side}")


def check_threshold(parser: OneLineParser, threshold: float, folder: Path | None, flag: str) -> None:
    """The default folder's name has one decimal: labels of 0.9 and 0.95 must not share one."""
    if folder is None and round(threshold, 1) != threshold:
        parser.error(f"--threshold {threshold}: the folder's name has one decimal; name a folder with {flag}")


def check_portion(
    parser: OneLineParser, portion: float, threshold: float | None, folder: Path | None, flag: str
) -> None:
    """Class-balanced labels have no other threshold; the default folder's name has two decimals."""
    if threshold is not None:
        parser.error("--portion finds a threshold for each class; leave out --threshold")
    if folder is None and round(portion, 2) != portion:
        parser.error(f"--portion {portion}: the folder's name has two decimals; name a folder with {flag}")


def _parse_with_earlier(parser: OneLineParser, argv: list[str] | None) -> Namespace:
    """Parse a command line; values that it leaves out come from an earlier run's `opts.yaml`, if any.

    That file is named by `--config`, or is in `--snapshot-dir` with `--resume`.

    Raises:
        UserError: the file cannot be read, or holds a value that its flag does not take.
    """
    args = parser.parse_args(argv)
    file = args.config
    if file is None and args.resume and (args.snapshot_dir / OPTIONS_FILE).is_file():
        file = args.snapshot_dir / OPTIONS_FILE
    if file is None:
        return args
    options = load_options(file)
    if args.config and (unknown := options.keys() - _names() - {"classes", *CALL_OPTIONS}):
        log.warning("%s: no flag is named %s; passed over.", file, " or ".join(sorted(map(str, unknown))))
    earlier, defaults = parse_options(parser, options, file), vars(parser.parse_args([]))
    # The file holds all flags, those without a default as the data sets fill them in.
    kept = {name for name, value in vars(earlier).items() if defaults[name] not in (None, value)}
    earlier.given = {name: flag for name, flag in earlier.given.items() if name in kept}
    return parser.parse_args(argv, earlier)


def _names() -> set[str]:
    """The names of all flags of the two trainings."""
    parser = OneLineParser("")
    for add in (_add_training_flags, _add_online_flags, _add_pseudo_label_flags):
        add(parser)
    return {action.dest for action in parser._actions}


def parse_options(parser: OneLineParser, options: dict, file: Path) -> Namespace:
    """The values in `opts.yaml` as the parser's flags read them; names of no flag are passed over.

    Raises:
        UserError: a value that its flag does not take.
    """
    options = {name: value for name, value in options.items() if name not in CALL_OPTIONS}
    if options.get("precision") is not None:
        options.pop("fp16", None)  # the same setting
    if options.get("num_steps_stop") == options.get("num_steps"):
        options.pop("num_steps_stop", None)  # the default, which follows --num-steps
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    argv = []
    for name, value in options.items():
        if name in flags and value is not None:
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, str | int | float) for part in parts):
                raise UserError(f"{file}: {name} cannot be {value!r:.100}; correct it")
            argv.append(f"{flags[name]}={','.join(map(str, parts))}")
    parser.origin = file
    try:
        return parser.parse_args(argv)
    finally:
        parser.origin = None


def spelled_options(args: Namespace) -> dict:
    """The training flags by name, as written on a command line."""

    def spell(name: str, value: object) -> object:
        if name.startswith(("input_size", "crop_size", "patch_size")):
            return format_size(value)
        return str(value) if isinstance(value, Path) else value

    return {name: spell(name, value) for name, value in vars(args).items() if name not in CALL_OPTIONS}


def write_options(folder: Path, args: Namespace, classes: Colors) -> None:
    """Write `opts.yaml`: the training flags, and the classes with their colours."""
    options = spelled_options(args) | {"classes": {name: list(color) for name, color in classes.items()}}
    text = yaml.safe_dump(options, sort_keys=False)
    atomic_write(folder / OPTIONS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load_options(path: Path) -> dict:
    """The content of an `opts.yaml`, unchecked.

    Raises:
        UserError: the file does not exist or is not a YAML mapping.
    """
    try:
        options = load_yaml(path)
        if not isinstance(options, dict):
            raise ValueError("it holds no flags")
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise UserError(f"{path}: {reason}; copy opts.yaml from the training's folder") from error
    return options


def read_options(snapshot: Path) -> dict:
    """The `opts.yaml` beside a snapshot; the values that rebuild its network are complete and checked.

    Raises:
        UserError: the file does not exist, is not YAML, or lacks a value of the network.
    """
    path = snapshot.parent / OPTIONS_FILE
    options = load_options(path)
    options.setdefault("arch", "resnet101")  # the published code had only this one and did not write it
    for name in NETWORK_OPTIONS:
        if options.get(name) is None:
            raise UserError(f"{path}: lacks {name}; copy the file again from the training's folder")
    parser = OneLineParser()
    _add_network_flags(parser)
    checked = vars(parse_options(parser, {name: options[name] for name in NETWORK_OPTIONS}, path))
    return options | network_options(checked)


def network_options(options: dict) -> dict:
    """The keyword arguments of `DeeplabMulti` among the options of a training."""
    return {name: options[name] for name in NETWORK_OPTIONS}
