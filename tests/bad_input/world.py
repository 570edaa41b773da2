"""The unharmed world that cases spoil: small data sets, snapshots, lists, and runs on them that succeed."""

from pathlib import Path

import numpy as np
import torch
import yaml

from dataset.cityscapes import CITYSCAPES_COLORS
from dataset.own import read_domain
from model.deeplab_multi import DeeplabMulti
from tests.conftest import (
    cityscapes_names,
    label_blocks,
    make_unsure,
    picture,
    run_in,
    save_png,
    write_cityscapes,
    write_gta5,
)
from utils.options import stage1_args, write_options

SIZE = (48, 96)  # of every image
GTA5 = "data/GTA5"
CITYSCAPES = "data/Cityscapes/data"
NAMES = cityscapes_names(1)
SNAPSHOT = "snapshots/old/GTA5_4.pth"
OPTIONS = "snapshots/old/opts.yaml"
DESCRIPTION = "own/dataset.yaml"
RESULT = "result"
RUN = "snapshots/run"
STATE = f"{RUN}/training_state.pt"
OWN_CLASSES = {"road": {"ids": 7, "color": [128, 64, 128]}, "car": {"ids": [26, 27]}, "person": {"ids": 24}}

TRAINING = (
    *("--arch", "mini", "--restore-from", "none", "--cpu", "--num-workers", "0", "--batch-size", "2"),
    *("--input-size", "80,48", "--crop-size", "64,32", "--input-size-target", "72,40"),
    *("--num-steps", "2", "--save-pred-every", "1", "--save-num-images", "1"),
    *("--snapshot-dir", "snapshots/new", "--log-dir", "log"),
)
PREDICTION = (
    *("--restore-from", SNAPSHOT, "--input-size", "72,40", "--scales", "1", "--batchsize", "2"),
    *("--num-workers", "0", "--cpu"),
)
OWN = ("--source", "own", "--data-dir", "own")
# Runs that must succeed; the cases are these with one thing wrong.
GOOD = {
    "train_ms": TRAINING,
    "train_ft": TRAINING,
    "generate_plabel_cityscapes": (*PREDICTION, "--save", "out"),
    "evaluate_cityscapes": (*PREDICTION, "--save", "out"),
    "check_data": ("gta5", "--num-workers", "0"),
    "segment": ("street.png", "--restore-from", SNAPSHOT, "--input-size", "72,40", "--save", "out", "--cpu"),
    "export_onnx": ("--restore-from", SNAPSHOT, "--input-size", "72,40", "--save", "network.onnx"),
    "report": (RESULT, "--save", "page.html"),
    "tables": ("mrnet-2", "--dry-run"),
    "demo": ("--quick", "--out", "demo"),
}
TRAIN, PREDICT, EVALUATE = GOOD["train_ms"], GOOD["generate_plabel_cityscapes"], GOOD["evaluate_cityscapes"]
SCORING = ("--predictions", "predictions", "--num-workers", "0", "--cpu", "--save", "out")
# What a training or a prediction may leave if it stops on its way.
RUN_FILES = ("snapshots/new", "snapshots/new/*", "log", "log/*")
PREDICTED = ("out", "out/*")


def save_snapshot(file: Path, classes: dict = CITYSCAPES_COLORS, source: str = "gta5") -> None:
    """An untrained network with the flags of its training beside it."""
    args = stage1_args(["--arch", "mini", "--use-se", "--norm-style", "gn"])
    args.source, args.num_classes = source, len(classes)
    file.parent.mkdir(parents=True)
    network = DeeplabMulti(len(classes), use_se=True, norm_style="gn", arch="mini")
    torch.save(network.state_dict(), file)
    make_unsure(file)
    write_options(file.parent, args, classes)


def write_world(folder: Path) -> None:
    """Data of both domains, own data, pseudo labels, predictions, snapshots, a result and half of a run."""
    rng = np.random.default_rng(0)
    write_gta5(folder / GTA5, count=3, size=SIZE)
    write_cityscapes(folder / CITYSCAPES, count=1, size=SIZE)
    for name in NAMES:
        for place in (f"{CITYSCAPES}/pseudo_FULL/train", "predictions"):
            save_png(folder / place / name, label_blocks(rng, SIZE, range(19)))
    for split in ("train", "val"):
        for number in range(2):
            save_png(folder / f"own/images/{split}/{number}.png", picture(rng, SIZE))
            save_png(folder / f"own/labels/{split}/{number}.png", label_blocks(rng, SIZE, (7, 24, 26)))
    (folder / DESCRIPTION).write_text(yaml.safe_dump({"classes": OWN_CLASSES, "ignore": {"ids": 0}}))
    torch.manual_seed(0)
    save_snapshot(folder / SNAPSHOT)
    save_snapshot(folder / "snapshots/own/own_4.pth", read_domain(folder / "own").colors, source="own")
    save_png(folder / "street.png", picture(rng, SIZE))
    for script, flags in {
        "evaluate_cityscapes": (*PREDICTION, "--save", RESULT),
        "train_ms": (*TRAINING, "--snapshot-dir", RUN, "--num-steps", "4", "--num-steps-stop", "2"),
    }.items():
        made = run_in(folder, script, *flags)
        assert not made.returncode, made.stderr
