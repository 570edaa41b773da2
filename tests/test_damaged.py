"""Files that cannot be used, met in the middle of a training, and losses that are no longer finite."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TRAINING, files_of, one_line_error, run_in, save_png, write_world

# Two samples an iteration and four images: each is met several times.
RUN = ("train_ms", *TRAINING, "--num-steps", "8", "--save-pred-every", "8", "--norm-style", "gn")
IMAGE = "data/GTA5/images/00002.png"


@pytest.fixture
def world(tmp_path) -> Path:
    return write_world(tmp_path)


def train(world: Path, *flags: str, name: str = "run"):
    return run_in(world, *RUN, "--snapshot-dir", name, "--log-dir", f"{name}/board", *flags)


def damage(path: Path) -> None:
    """Overwrite a part of the pixels; the header, which the check before the training reads, stays whole."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = bytes(500)
    path.write_bytes(content)


def state_of(run: Path) -> dict:
    return torch.load(run / "training_state.pt", weights_only=True)


def test_a_damaged_image_stops_the_run_with_everything_saved(world):
    assert train(world, name="whole").returncode == 0
    whole = (world / IMAGE).read_bytes()
    damage(world / IMAGE)
    line = one_line_error(
        train(world), IMAGE, "remove it from the list", "saved before iteration", "--resume"
    )
    reached = state_of(world / "run")["iteration"]
    assert f"saved before iteration {reached}" in line
    one_line_error(train(world, "--resume"), IMAGE)  # still damaged
    (world / IMAGE).write_bytes(whole)
    assert train(world, "--resume").returncode == 0
    for name in ("GTA5_8.pth", "GTA5_8_D1.pth", "GTA5_8_D2.pth", "log.jsonl"):
        assert (world / "run" / name).read_bytes() == (world / "whole" / name).read_bytes()


@pytest.mark.parametrize("problem", ["missing", "of another size", "with an unknown id"])
def test_a_label_that_cannot_be_used_stops_the_run(problem, world):
    label = world / IMAGE.replace("images", "labels")
    if problem == "missing":
        label.unlink()
    elif problem == "of another size":
        save_png(label, np.full((40, 80), 7, np.uint8))
    else:
        save_png(label, np.full((48, 80), 77, np.uint8))
    one_line_error(train(world), str(label.relative_to(world)))


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_last_good_state(world):
    flags = ("--save-state-every", "2", "--log-every", "1", "--learning-rate", "1e-4")
    assert train(world, *flags, "--num-steps-stop", "4").returncode == 0
    good = files_of(world / "run")
    said = train(world, "--resume", "--num-steps-stop", "8", "--learning-rate", "1e30")
    line = one_line_error(said, "not finite", "seg2", "nan", "--learning-rate", "--resume")
    number = int(line.split("iteration ")[1].split(":")[0])
    assert 4 <= number < 8
    images = {path.name for path in (world / "data/GTA5/images").iterdir()}
    assert any(name in line for name in images) and "leftImg8bit.png" in line
    state = state_of(world / "run")
    assert state["iteration"] in (4, 6)
    assert all(value.isfinite().all() for value in state["trainer"]["networks"].values())
    snapshots = [path for path in good if path.suffix == ".pth"]
    assert snapshots and all(path.read_bytes() == good[path] for path in snapshots)
    assert json.loads((world / "run/log.jsonl").read_text().splitlines()[0])["iteration"] == 0


def test_the_check_before_the_training_finds_what_headers_tell(world):
    path = world / IMAGE
    Image.open(path).crop((0, 0, 10, 10)).save(path)
    one_line_error(train(world), "00002.png", "size")
    assert not list((world / "run").glob("*"))
