"""The loop, the log, the snapshots and the files of a training."""

import fcntl
import json
import logging
import os
import pty
import select
import signal
import struct
import sys
import termios
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dataset import adapt, build_dataset, find_domain
from engine import run_log
from engine.loop import LossBuffer
from engine.run_log import BarHandler, ProgressLine, TrainingLog, progress
from engine.snapshots import save_snapshot, save_tensors
from engine.validation import Validation
from model.deeplab_multi import DeeplabMulti
from tests.conftest import (
    TRAIN_IDS,
    TRAINING,
    cityscapes_names,
    files_of,
    iou_of_files,
    one_line_error,
    run_in,
    save_png,
    write_world,
)
from tests.test_resume import scalars
from trainer_ms import AD_Trainer
from utils.distributed import SINGLE_PROCESS
from utils.errors import StopRequest, UserError
from utils.options import stage1_args

LOSSES = {"seg1": 2.5, "seg2": 1.25, "kl": 0.0}
RATES = {"lr": 2e-4, "lr_D": 1e-4}


# Progress


@pytest.fixture
def terminal():
    """A terminal to write to, and a function that reads what it showed."""
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 150, 0, 0))  # rows, columns

    def shown() -> str:
        stream.flush()
        read = b""
        while select.select([ours], [], [], 0.5)[0]:
            read += os.read(ours, 1 << 16)
        return read.decode()

    yield stream, shown
    stream.close()
    os.close(ours)


def test_in_a_terminal_messages_stand_above_the_bar(terminal, monkeypatch):
    stream, shown = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    handler = BarHandler(stream)
    message = logging.LogRecord("x", logging.INFO, "", 0, "Saved snapshots/GTA5_6.pth", None, None)
    items = iter(progress(range(3), 3))
    next(items)
    handler.emit(message)
    assert list(items) == [1, 2]
    rows = shown().replace("\r\n", "\n").split("\n")
    saved = [row for row in rows if "Saved snapshots/GTA5_6.pth" in row]
    assert len(saved) == 1 and saved[0].split("\r")[-1] == "Saved snapshots/GTA5_6.pth"
    assert sum("3/3" in row for row in rows) == 1  # drawn in place


def test_each_call_is_a_line_with_speed_and_time_left(monkeypatch, caplog):
    clock = iter([0.0, 10.0, 40.0])
    monkeypatch.setattr(run_log.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        line = ProgressLine(0, 10_000)
        line.show(19, LOSSES, RATES)
        line.show(20, LOSSES, RATES)
    fast, slow = caplog.messages
    assert fast == "    19/10000  seg1 2.5  seg2 1.25  lr 2.0e-04  lr_D 1.0e-04  2.00 it/s  1:23:10 left"
    assert slow.endswith("30.00 s/it  83:09:30 left") and "\r" not in fast + slow


# Losses and log


def test_losses_are_fetched_together_and_the_latest_are_returned():
    buffer = LossBuffer()
    assert buffer.fetch(str) == ({}, [])
    for i_iter in range(3):
        losses = {"seg1": torch.tensor(i_iter + 0.5), "val": torch.tensor(float("nan"))}
        buffer.add(i_iter, losses, torch.tensor([1.0, 7.0]))
    losses, class_weight = buffer.fetch(str)
    assert losses["seg1"] == 2.5 and losses["val"] != losses["val"] and class_weight == [1.0, 7.0]
    assert buffer.fetch(str) == ({}, [])


def test_of_fetched_losses_the_first_that_is_not_finite_is_reported():
    buffer = LossBuffer()
    for i_iter, value in enumerate((1.0, float("inf"), float("nan"))):
        buffer.add(i_iter, {"seg1": torch.tensor(value), "kl": torch.tensor(0.0)}, torch.ones(2))
    with pytest.raises(UserError, match=r"iteration 1: .* \(seg1 inf\) with batch 1;"):
        buffer.fetch("batch {}".format)


def test_resuming_removes_logged_lines_from_there_on_and_a_last_one_that_was_cut(tmp_path):
    lines = [json.dumps({"iteration": i, "seg1": 0.5}) for i in range(4)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"iteration": 4, "se']))
    (tmp_path / "validation.jsonl").write_text("".join(f'{{"iteration": {i}}}\n' for i in (1, 2, 3)))
    history = TrainingLog(tmp_path, None, start=3, total=9, classes=["road"], resumed=True)
    history.write(3, {"seg1": 0.25}, {"lr": 0.125}, [1.0])
    # Iteration 2 was the last one before the save; its measurement followed and is repeated.
    assert [line["iteration"] for line in history.validations()] == [1]
    history.validated(2, {"means": {"mIoU": 0.5}, "iou": {"road": None}})
    history.close()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert rows[3] == {"iteration": 3, "seg1": 0.25, "lr": 0.125}
    assert json.loads((tmp_path / "validation.jsonl").read_text().splitlines()[-1]) == {
        "iteration": 2,
        "means": {"mIoU": 0.5},
        "iou": {"road": None},
    }


# A run


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A working folder with a run of two iterations, measured after the last, and its folder."""
    world = write_world(tmp_path_factory.mktemp("measured"))
    folders = ("--snapshot-dir", "run", "--log-dir", "run/board")
    flags = ("--num-steps-stop", "2", "--eval-every", "2", "--keep-best", "--often-balance")
    result = run_in(world, "train_ms", *TRAINING, *folders, *flags)
    assert result.returncode == 0, result.stderr
    return world, world / "run"


def test_validation_is_the_iou_of_one_pass_at_the_target_size(measured):
    world, folder = measured
    args = stage1_args([*TRAINING])
    network = DeeplabMulti(args.num_classes, arch="mini").eval()
    network.load_state_dict(torch.load(folder / "GTA5_2.pth", weights_only=True))
    labels, predictions = [], []
    data = world / "data/Cityscapes/data"
    train_ids = np.array([TRAIN_IDS.get(value, 255) for value in range(256)])
    for name in cityscapes_names(2):
        image = Image.open(data / "leftImg8bit/val" / name).resize((72, 40), Image.Resampling.BICUBIC)
        bgr = torch.from_numpy(np.array(image)[None, :, :, ::-1].copy()).permute(0, 3, 1, 2)
        mean = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
        with torch.no_grad():
            z1, z2 = network(bgr - mean)
        ids = np.array(Image.open(data / "gtFine/val" / name.replace("leftImg8bit", "gtFine_labelIds")))
        scores = F.interpolate((0.5 * z1 + z2).softmax(1), ids.shape, mode="bilinear", align_corners=True)
        predictions.append(scores[0].argmax(0).numpy())
        labels.append(train_ids[ids])
    _, expected = iou_of_files(labels, predictions, 19)
    (row,) = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert row["iteration"] == 2
    assert row["means"]["mIoU"] == pytest.approx(np.nanmean(expected), abs=1e-3)
    assert list(row["iou"].values()) == pytest.approx(expected.tolist(), abs=5e-3, nan_ok=True)
    assert (folder / "GTA5_best.pth").read_bytes() == (folder / "GTA5_2.pth").read_bytes()


def test_validation_runs_the_network_uncompiled_in_the_precision_of_the_training(measured, monkeypatch):
    world, folder = measured
    monkeypatch.chdir(world)
    pair = adapt(find_domain("gta5"), find_domain("cityscapes"))
    args = stage1_args([*TRAINING, "--precision", "bf16"])
    network = DeeplabMulti(args.num_classes, arch="mini")
    network.load_state_dict(torch.load(folder / "GTA5_2.pth", weights_only=True))
    network.compile(backend=mock.Mock(side_effect=AssertionError("compiled")))
    computed = set()
    network.conv1.register_forward_hook(lambda _, __, result: computed.add(result.dtype))
    data = build_dataset("cityscapes", args.data_dir_target, split="val", colors=pair.colors)
    with StopRequest() as stop:
        result = Validation(data, pair, args).measure(network, SINGLE_PROCESS, stop)
    assert computed == {torch.bfloat16} and network.training
    row = json.loads((folder / "validation.jsonl").read_text())
    assert result["means"]["mIoU"] == pytest.approx(row["means"]["mIoU"], abs=0.01)


def test_tensorboard_shows_what_the_log_holds(measured):
    _, folder = measured
    shown = scalars(folder)
    for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        step = line.pop("iteration")
        assert {name: shown[name, step] for name in line} == pytest.approx(line, rel=1e-6)
        assert shown["class_weight/traffic_light", step] >= 1
    row = json.loads((folder / "validation.jsonl").read_text())
    assert shown["validation/mIoU", 2] == pytest.approx(row["means"]["mIoU"], rel=1e-6)
    assert shown["validation_iou/road", 2] == pytest.approx(row["iou"]["road"], rel=1e-6)


# A run that cannot go on

# Two samples per iteration and four images: each image is read several times.
EIGHT = ("train_ms", *TRAINING, "--num-steps", "8", "--save-pred-every", "8", "--norm-style", "gn")
IMAGE = "data/GTA5/images/00002.png"


@pytest.fixture
def train(tmp_path):
    """A working folder, and a function that trains in it."""
    world = write_world(tmp_path)

    def run(*flags, name="run"):
        return run_in(world, *EIGHT, "--snapshot-dir", name, "--log-dir", f"{name}/board", *flags)

    return world, run


def test_a_damaged_image_stops_the_run_with_everything_saved(train):
    world, run = train
    assert run(name="whole").returncode == 0
    whole = (world / IMAGE).read_bytes()
    middle = len(whole) // 2  # pixels, not the header, which is read before the training
    (world / IMAGE).write_bytes(whole[:middle] + bytes(500) + whole[middle + 500 :])
    line = one_line_error(run(), IMAGE, "remove it from the list", "saved before iteration", "--resume")
    reached = torch.load(world / "run/training_state.pt", weights_only=True)["iteration"]
    assert f"saved before iteration {reached}" in line
    one_line_error(run("--resume"), IMAGE)  # still damaged
    (world / IMAGE).write_bytes(whole)
    assert run("--resume").returncode == 0
    for name in ("GTA5_8.pth", "GTA5_8_D1.pth", "GTA5_8_D2.pth", "log.jsonl"):
        assert (world / "run" / name).read_bytes() == (world / "whole" / name).read_bytes()


def test_a_missing_label_and_one_of_another_size_are_found_before_the_training(train):
    world, run = train
    label = IMAGE.replace("images", "labels")
    save_png(world / label, np.full((40, 80), 7, np.uint8))
    one_line_error(run(), label, "size")
    (world / label).unlink()
    one_line_error(run(), label)
    assert not list((world / "run").glob("*"))


def test_a_label_with_an_unknown_id_stops_the_run(train):
    world, run = train
    label = IMAGE.replace("images", "labels")
    save_png(world / label, np.full((48, 80), 77, np.uint8))
    one_line_error(run(), label, "id 77")


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_last_good_state(train):
    world, run = train
    flags = ("--save-state-every", "2", "--log-every", "1", "--learning-rate", "1e-4")
    assert run(*flags, "--num-steps-stop", "4").returncode == 0
    good = files_of(world / "run")
    said = run(*flags, "--resume", "--num-steps-stop", "8", "--learning-rate", "1e30")
    line = one_line_error(said, "not finite", "seg2", "nan", "--learning-rate", "--resume")
    number = int(line.split("iteration ")[1].split(":")[0])
    assert 4 <= number < 8
    images = {path.name for path in (world / "data/GTA5/images").iterdir()}
    assert any(name in line for name in images) and "leftImg8bit.png" in line
    state = torch.load(world / "run/training_state.pt", weights_only=True)
    assert state["iteration"] in (4, 6)
    assert all(value.isfinite().all() for value in state["trainer"]["networks"].values())
    snapshots = [path for path in good if path.suffix == ".pth"]
    assert snapshots and all(path.read_bytes() == good[path] for path in snapshots)
    assert json.loads((world / "run/log.jsonl").read_text().splitlines()[0])["iteration"] == 0


# Files


def test_equal_content_gives_equal_bytes_whatever_the_file_is_called(tmp_path):
    for name in ("one.pth", "another.pth"):
        save_tensors(tmp_path / name, {"weight": torch.arange(3.0)})
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "another.pth").read_bytes()
    assert torch.equal(torch.load(tmp_path / "one.pth")["weight"], torch.arange(3.0))


def test_values_that_are_not_finite_are_not_saved(measured, tmp_path):
    trainer = AD_Trainer(stage1_args([*TRAINING]))
    trainer.D2.requires_grad_(False)
    next(trainer.D2.parameters()).fill_(float("inf"))
    with pytest.raises(UserError, match=r"iteration 7: D2.*not finite"):
        save_snapshot(trainer, tmp_path, "GTA5", 7)
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_interrupts_unless_it_repeats_the_first_one(monkeypatch):
    clock = iter([0.0, 1.0, 9.0])
    monkeypatch.setattr("utils.errors.time.monotonic", lambda: next(clock))
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.signum == 0
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # torchrun's, a second later
        assert stop.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
