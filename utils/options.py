"""The scripts' flags: every flag is declared, read and checked here.

Only what the flags alone show is checked; data, files and GPUs are the scripts' business. `--source` and
`--target` come first: they set the defaults of others, and a description file they name is read for that.
"""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from dataset import SOURCES, TARGETS, Adaptation, adapt, find_domain
from dataset.domains import BUILT_IN
from dataset.transforms import SCALES
from model.deeplab_multi import ARCHS, GROUPS, NORM_STYLES, STRIDE
from utils import flag_types
from utils.config import as_arguments, earlier_options
from utils.errors import refuse
from utils.flag_types import PUBLISHED_WEIGHTS, format_size
from utils.losses import DIVERGENCES
from utils.precision import PRECISIONS
from utils.uncertainty import DROPOUT_PASSES, UNCERTAINTIES

ON_DAMAGED = ("stop", "skip")
DEFAULT_PRECISION = "tf32"  # what torch does where nobody chooses
REPORT_IMAGES = 4  # of the worst and as many of the best on a page
LONGEST_MESSAGE = 400  # characters


# How the help calls a value; others go by their flag.
METAVARS = {
    Path: "PATH",
    flag_types.positive: "N",
    flag_types.not_negative: "N",
    flag_types.workers: "N",
    flag_types.seed: "N",
    flag_types.byte: "N",
    flag_types.positive_float: "X",
    flag_types.not_negative_float: "X",
    flag_types.share: "X",
    flag_types.fraction: "X",
    flag_types.percent: "PERCENT",
    flag_types.size: "W,H",
    flag_types.boolean: "True|False",
    flag_types.gpu_ids: "N,N",
    flag_types.scales: "X,X",
    flag_types.seeds: "N,N",
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind every flag that has one."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    """argparse that answers a bad flag with one line instead of the whole usage."""

    origin = ""  # of what is parsed, with a colon, where it was not given on the command line

    def __init__(self, description: str | None = None, add_help: bool = True):
        super().__init__(
            usage="%(prog)s [flags]",
            description=description,
            allow_abbrev=False,
            formatter_class=HelpFormatter,
            add_help=add_help,
        )
        self.register("type", None, flag_types.text)
        self.register("type", Path, flag_types.path)

    def error(self, message: str):
        """Print the line, of a long one both ends, and leave with exit status 2."""
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
        refuse(f"{self.prog}: error: {self.origin}{message} (--help lists the flags)")


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
    _add_switch(
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
    _check_threshold(parser, args.threshold, args.pseudo_dir, "--pseudo-dir")
    return args


def generate_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `generate_plabel_cityscapes.py`; what is None is the snapshot's to say."""
    parser = OneLineParser("Write pseudo labels for the target's training images.")
    _add_prediction_flags(parser, batchsize=12, split="train")
    parser.add_argument(
        "--weights",
        type=flag_types.one_weighting,
        default=PUBLISHED_WEIGHTS,
        help="of the two classifiers, primary:auxiliary (MRNet, table 1)",
    )
    parser.add_argument(
        "--threshold",
        type=flag_types.fraction,
        help="pixels scoring below it get no label (255); 1.0: every pixel gets one (default: 0.9 from "
        "SYNTHIA and for RobotCar, else 1.0)",
    )
    parser.add_argument("--save", type=Path, help="output folder (default: where train_ft.py looks)")
    args = parser.parse_args(argv)
    _require(parser, args.restore_from, "--restore-from is missing; name the snapshot to label with")
    if args.threshold is not None:
        _check_threshold(parser, args.threshold, args.save, "--save")
    return args


def evaluate_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `evaluate_cityscapes.py`; what is None is the snapshot's to say."""
    parser = OneLineParser("Predict the target's validation images and print IoU per class and mIoU.")
    _add_prediction_flags(parser, batchsize=16, split="val")
    parser.add_argument(
        "--weights",
        type=flag_types.weightings,
        default=PUBLISHED_WEIGHTS,
        help="of the two classifiers, primary:auxiliary; several (1:0.5,1:0,0:1) are scored side by side, "
        "the first one's pictures are written (MRNet, table 1)",
    )
    parser.add_argument(
        "--uncertainty",
        choices=UNCERTAINTIES,
        default="kl",
        help="the classifiers' divergence or Monte-Carlo dropout; for the heat maps and the uncertainty gap "
        "(Rectifying, table 8)",
    )
    parser.add_argument(
        "--mc-passes", type=flag_types.positive, default=DROPOUT_PASSES, help="of Monte-Carlo dropout"
    )
    parser.add_argument(
        "--mc-droprate", type=flag_types.share, help="drop rate of those passes (default: the training's)"
    )
    parser.add_argument("--random-seed", type=flag_types.seed, default=1234, help="of Monte-Carlo dropout")
    parser.add_argument(
        "--save",
        type=Path,
        help="output folder (default: ./result/cityscapes<name of the snapshot's folder>)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        help="score the train-id PNGs in this folder, named as the images, instead of running a network",
    )
    _add_switch(parser, "--report", "write report.html: tables, confusions, the worst and the best images")
    parser.add_argument(
        "--report-images",
        type=flag_types.not_negative,
        default=REPORT_IMAGES,
        help="how many worst and best images",
    )
    args = parser.parse_args(argv)
    source = args.restore_from or args.predictions
    _require(parser, source, "--restore-from is missing; name the snapshot to evaluate")
    if args.restore_from and args.predictions:
        parser.error("--predictions scores files and --restore-from a network; give one of the two")
    return args


def report_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `report.py`."""
    parser = OneLineParser("Write the page of an evaluation, or of several side by side.")
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULT", help="folder that evaluate_cityscapes.py wrote")
    add("--titles", help="of the results, separated by commas (default: the folders' names)")
    add(
        "--images",
        type=flag_types.not_negative,
        default=REPORT_IMAGES,
        help="worst and best images; of several results, "
        "those where the last one gains and loses most over the first",
    )
    add("--names", nargs="+", default=(), metavar="NAME", help="compare these images, named as in images.csv")
    add("--save", type=Path, help="the page (default: report.html in the folder, or ./comparison.html)")
    add("--data-dir", type=Path, help="root of the data (default: the first evaluation's)")
    add(
        "--target",
        type=flag_types.target,
        metavar="DOMAIN",
        help="the data set (default: the first evaluation's)",
    )
    args = parser.parse_intermixed_args(argv)
    several = len(args.results) > 1
    args.titles = args.titles.split(",") if args.titles else _folder_titles(args.results)
    if len(args.titles) != len(args.results):
        parser.error(f"--titles: {len(args.titles)} for {len(args.results)} results; give one each")
    if len(set(args.titles)) < len(args.titles):
        parser.error("--titles: two are the same; give each result a title and name it once")
    if args.names and not several:
        parser.error("--names chooses images to compare; name several results")
    args.save = args.save or (Path("comparison.html") if several else args.results[0] / "report.html")
    return args


def _folder_titles(folders: list[Path]) -> list[str]:
    """The folders' names, or the whole paths where two have one name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def segment_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `segment.py`; flags and inputs may stand in any order."""
    parser = OneLineParser("Segment pictures, folders of pictures and videos with a trained network.")
    parser.usage = "%(prog)s [flags] INPUT [INPUT ...]"
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="picture, folder (with those below) or video")
    add("--restore-from", help="snapshot file; opts.yaml must lie beside it")
    add("--save", type=Path, default="./result/segmented", help="output folder")
    # No `_add_switch`, which would take the input behind it for its value.
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
    _require(parser, args.restore_from, "--restore-from is missing; name the snapshot to segment with")
    return args


def export_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `export_onnx.py`."""
    parser = OneLineParser("Write a trained network as an ONNX file and check it on the CPU.")
    add = parser.add_argument
    add("--restore-from", help="snapshot file; opts.yaml must lie beside it")
    add("--save", type=Path, default="./network.onnx", help="the file to write")
    add(
        "--input-size",
        type=flag_types.size,
        help="width,height of the pictures that it will take (default: the training's --input-size-target)",
    )
    _add_switch(parser, "--logits", "the two classifiers' joint logits as one more output")
    args = parser.parse_args(argv)
    _require(parser, args.restore_from, "--restore-from is missing; name the snapshot to export")
    return args


def check_data_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `check_data.py`."""
    parser = OneLineParser("Look at every image and label of a data set and print what it holds.")
    parser.add_argument(
        "dataset",
        type=flag_types.any_domain,
        metavar="DOMAIN",
        help=f"{', '.join(BUILT_IN)}, or a description file or folder of your own data (docs/own-data.md)",
    )
    parser.add_argument(
        "--source",
        type=flag_types.source,
        metavar="DOMAIN",
        help="count a target in the classes of this source (default: in its own)",
    )
    parser.add_argument("--data-dir", type=Path, help="root of the data (default: the data set's own)")
    parser.add_argument("--data-list", type=Path, help="names, one a line; without it the folder is scanned")
    parser.add_argument(
        "--set", type=flag_types.split, default="train", help="split of the data, where it has splits"
    )
    parser.add_argument(
        "--num-workers", type=flag_types.workers, help="decoding processes (default: by the cores)"
    )
    return parser.parse_args(argv)


def tables_args(tables: Collection[str], argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `tables.py`; `tables` are the names that it knows."""
    parser = OneLineParser("Measure tables of the papers.")
    parser.usage = "%(prog)s NAME [NAME ...] [flags]"
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"tables: {' '.join(tables)}")
    add("--list", action="store_true", help="print what there is")
    add("--embedded", action="store_true", help="small network on drawn data, as in demo.py")
    add("--quick", action="store_true", help="with --embedded: a minute or two a table, numbers mean little")
    add(
        "--seeds",
        type=flag_types.seeds,
        default="0",
        help="of each number; several give mean ± standard deviation",
    )
    add("--out", type=Path, default="tables", help="folder of everything it writes")
    add("--dry-run", action="store_true", help="print the commands; run and write nothing")
    add(
        "--jobs",
        type=flag_types.positive,
        default=1,
        help="scripts side by side; each gets its share of the cores",
    )
    add(
        "--gpu-ids",
        type=flag_types.gpu_ids,
        help="GPUs of every training, such as 0,1 (default: the published command's)",
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in tables]
    if unknown or not (args.names or args.list):
        problem = f"no table is named {unknown[0]!r}" if unknown else "name a table"
        parser.error(f"{problem}; there are {', '.join(tables)}")
    if args.quick and not args.embedded:
        parser.error("--quick shortens --embedded; give both")
    args.names = list(dict.fromkeys(args.names))
    return args


def demo_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags of `demo.py`."""
    parser = OneLineParser("The whole method on embedded data.")
    add = parser.add_argument
    add("--out", type=Path, default="demo", help="folder of everything it writes")
    add("--seed", type=flag_types.seed, default=0, help="of the scenes and of the trainings")
    add("--quick", action="store_true", help="about a minute; the numbers mean little")
    return parser.parse_args(argv)


def _named_pair(argv: list[str], earlier: tuple[Path, dict] | None) -> Adaptation:
    """What `--source` and `--target` name; the defaults of other flags follow from it."""
    parser = OneLineParser(add_help=False)
    _add_domain_flags(parser, source="gta5", target="cityscapes")
    args, _ = parser.parse_known_args(_with_earlier(parser, argv, earlier))
    return adapt(find_domain(args.source), find_domain(args.target))


def _with_earlier(parser: OneLineParser, argv: list[str], earlier: tuple[Path, dict] | None) -> list[str]:
    """The command line with an earlier run's flags before it, which are checked on their own."""
    if earlier is None:
        return argv
    path, options = earlier
    spelled, _ = as_arguments(options, parser)
    parser.origin = f"{path}: "
    parser.parse_args(spelled)
    parser.origin = ""
    return spelled + argv


def _check_threshold(parser: OneLineParser, threshold: float, folder: Path | None, flag: str) -> None:
    """The default folder's name has one decimal: labels of 0.9 and 0.95 must not meet in one."""
    if folder is None and round(threshold, 1) != threshold:
        parser.error(f"--threshold {threshold}: the folder's name has one decimal; name a folder with {flag}")


def _require(parser: OneLineParser, value: object, message: str) -> None:
    if not value:
        parser.error(message)


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
    add("--num-classes", type=flag_types.positive, default=num_classes, help="number of classes")
    add("--norm-style", choices=NORM_STYLES, default="bn", help="normalisation in the classifiers")
    _add_switch(group, "--use-se", "squeeze and excitation in the classifiers")
    add(
        "--droprate",
        "--drop",
        type=flag_types.share,
        default=0.1,
        help="channel dropout in the classifiers (Rectifying, table 7)",
    )
    _add_switch(group, "--train_bn", "train the affine parameters of the trunk's batch normalisation")
    _add_switch(group, "--is-training", "update the trunk's BN statistics while training", default=True)
    _add_switch(group, "--sync_bn", "batch normalisation over all processes that torchrun started")
    add(
        "--restore-from",
        default="imagenet",
        help="initial weights: a file, a URL, imagenet (torchvision's, converted) or none",
    )
    _add_switch(group, "--not-restore-last", "start the classifiers afresh")


def _add_domain_flags(parser, source: str | None, target: str | None) -> None:
    """The two flags that every script has; a default of None is the snapshot's to say."""
    own = "or a description file or folder of your own data (docs/own-data.md)"
    said = "" if source else " (default: what the snapshot was trained with)"
    parser.add_argument(
        "--source",
        type=flag_types.source,
        default=source,
        metavar="DOMAIN",
        help=f"labelled domain: {', '.join(SOURCES)}, {own}; names the snapshots{said}",
    )
    parser.add_argument(
        "--target",
        type=flag_types.target,
        default=target,
        metavar="DOMAIN",
        help=f"domain to adapt to: {', '.join(TARGETS)}, {own}{said}",
    )


def _add_data_flags(group, pair: Adaptation, data_dir: Path, input_size: str) -> None:
    add = group.add_argument
    _add_domain_flags(group, source="gta5", target="cityscapes")
    add("--data-dir", type=Path, default=data_dir, help="root of the labelled stream")
    add("--data-list", type=Path, help="names in it, one a line; without it the folder is scanned")
    add("--data-dir-target", type=Path, default=pair.target.root, help="root of the target stream")
    add("--data-list-target", type=Path, help="names in it, one a line")
    add("--set", type=flag_types.split, default="train", help="split of the target to train on")
    add("--input-size", type=flag_types.size, default=input_size, help="width,height of the labelled images")
    add(
        "--input-size-target",
        type=flag_types.size,
        default=format_size(pair.target.target_size),
        help="width,height of target images",
    )
    add(
        "--crop-size",
        type=flag_types.size,
        default="640,360",
        help="width,height of the crops of both streams",
    )
    _add_switch(group, "--random-mirror", "mirror the target stream too (the labelled one always is)")
    _add_switch(group, "--random-scale", "scale the target stream too (the labelled one always is)")
    _add_switch(group, "--autoaug", "ImageNet AutoAugment on the labelled images")
    _add_switch(group, "--autoaug_target", "ImageNet AutoAugment on the target images")
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
    _add_switch(group, "--class-balance", "raise the weight of classes with few pixels in the batch")
    _add_switch(group, "--often-balance", "raise the weight of classes that are often absent")
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
        help="images of each stream a step, over all GPUs",
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
        help="of the trunk; classifiers 10 times",
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
    _add_switch(
        group, "--single-updates", "update each trunk parameter once a step (published: up to 4 times)"
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="of the network: full; TensorFloat-32, which is full but on NVIDIA's GPUs from Ampere on; mixed "
        "with bfloat16; mixed with half and loss scaling, CUDA only (docs/performance.md; default: tf32)",
    )
    _add_switch(group, "--fp16", "the published switch: --precision fp16")
    _add_switch(
        group,
        "--checkpointing",
        "compute residual blocks again in the backward pass instead of keeping what they computed: less "
        "memory, more time, the same result",
    )
    _add_switch(group, "--compile", "the network through torch.compile, on one device; other dropout masks")


def _add_device_flags(group) -> None:
    add = group.add_argument
    add("--random-seed", type=flag_types.seed, default=1234, help="of weights, order and augmentation")
    _add_switch(
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
    _add_switch(group, "--cpu", "compute on the CPU")


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
    _add_switch(
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
    _add_switch(group, "--tensorboard", "write everything for TensorBoard, too", default=True)
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
    add("--eval-set", default="val", help="split of the target that is measured")
    add("--eval-list", type=Path, help="names in it, one a line, to measure fewer")
    _add_switch(group, "--keep-best", "keep the network of the highest validation mIoU as <prefix>_best.pth")


def _add_prediction_flags(parser: OneLineParser, batchsize: int, split: str) -> None:
    add = parser.add_argument
    add("--restore-from", help="snapshot file; opts.yaml must lie beside it")
    _add_domain_flags(parser, source=None, target=None)
    add("--data-dir", type=Path, help="root of the target data (default: the target's own)")
    add("--data-list", type=Path, help="names in it, one a line; without it the folder is scanned")
    add("--set", type=flag_types.split, default=split, help="split of the data to predict")
    add("--num-classes", type=flag_types.positive, help="number of classes (default: the snapshot's)")
    add(
        "--input-size",
        type=flag_types.size,
        help="width,height of scale 1 (default: the training's --input-size-target)",
    )
    add(
        "--scales",
        type=flag_types.scales,
        help="scales to predict at, each also mirrored (default: 1,1.25; evaluating RobotCar: 1,0.8)",
    )
    add("--batchsize", "--batch-size", type=flag_types.positive, default=batchsize, help="images a pass")
    add("--num-workers", type=flag_types.workers, help="decoding processes (default: by the cores)")
    add("--gpu", "--gpu-ids", dest="gpu_ids", type=flag_types.gpu_ids, default="0", help="GPU to use")
    _add_switch(parser, "--cpu", "compute on the CPU")


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


def _add_switch(group, name: str, help_text: str, default: bool = False) -> None:
    """A switch that is accepted bare and with a value: `--autoaug`, `--autoaug False`."""
    other = "--" + name[2:].replace("_", "-")
    names = [name] if other == name else [name, other]
    group.add_argument(
        *names, type=flag_types.boolean, nargs="?", const=True, default=default, help=help_text
    )
