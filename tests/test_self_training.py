"""Class-balanced pseudo labels and training on them, through the scripts."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from engine.restore import restore_network
from tests.conftest import (
    PREDICTION,
    TRAINING,
    cityscapes_names,
    make_unsure,
    one_line_error,
    pixels_of,
    run_chain,
    write_world,
)
from utils import class_balance
from utils.preprocess import to_network_input

IMAGES = cityscapes_names(2)
SIZES = ((40, 72), (50, 90))  # scales 1 and 1.25 of PREDICTION
SNAPSHOT = "./snapshots/stage1/GTA5_1.pth"
LABELS = "data/Cityscapes/data/pseudo_CB_0.30/train"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The working folder with a snapshot and its class-balanced labels, and what was printed."""
    world = write_world(tmp_path_factory.mktemp("world"))
    train = ("train_ms", *TRAINING, *["--norm-style", "gn", "--use-se", "--num-steps-stop", "1"])
    run_chain(world, {"train": (*train, "--snapshot-dir", "./snapshots/stage1")})
    make_unsure(world / SNAPSHOT)
    generate = ("generate_plabel_cityscapes", "--restore-from", SNAPSHOT, *PREDICTION, "--portion", "0.3")
    return world, run_chain(
        world,
        {
            "hard": generate,
            "soft": (*generate, "--lr-weight-ent", "0.25", "--save", "./soft"),
            "best": (*generate, "--best-images", "3", "--save", "./best"),
        },
    )


@pytest.fixture
def trained(finished, monkeypatch):
    """That working folder, made the current one."""
    monkeypatch.chdir(finished[0])
    return finished[0]


def read(path) -> dict:
    return json.loads(path.read_text())


@torch.inference_mode()
def probabilities(world) -> list[torch.Tensor]:
    """Each training image's probabilities (C, H, W): two scales and their mirror images, averaged."""
    network = restore_network(Namespace(restore_from=world / SNAPSHOT, num_classes=19), torch.device("cpu"))
    found = []
    for name in IMAGES:
        pixels = pixels_of(world / "data/Cityscapes/data/leftImg8bit/train" / name)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        total = 0
        for size in SIZES:
            small = torch.nn.functional.interpolate(image, size, mode="bicubic", antialias=True)
            for flip in (False, True):
                x = to_network_input(small.permute(0, 2, 3, 1))
                z1, z2 = network(x.flip(3) if flip else x)
                p = (0.5 * z1 + z2).softmax(1)
                p = p.flip(3) if flip else p
                total += torch.nn.functional.interpolate(p, (48, 96), mode="bilinear", align_corners=True)
        found.append(total[0] / 4)
    return found


def expected_labels(images: list[torch.Tensor]) -> tuple[list[np.ndarray], torch.Tensor]:
    scores = [class_balance.class_scores(p) for p in images]
    thresholds = [class_balance.class_threshold(torch.cat(s), 0.3) for s in zip(*scores, strict=True)]
    thresholds = torch.stack(thresholds)
    return [class_balance.hard_labels(p, thresholds).numpy() for p in images], thresholds


def test_labels_are_balanced_over_the_whole_set(finished):
    world, said = finished
    images = probabilities(world)
    labels, thresholds = expected_labels(images)
    found = [pixels_of(world / LABELS / name) for name in IMAGES]
    assert 0.2 < np.mean(np.array(found) != 255) < 0.5
    assert np.mean(np.array(found) == np.array(labels)) > 0.999  # rounding may differ
    summary = read(world / LABELS / "class_balance.json")
    assert summary["thresholds"] == pytest.approx(thresholds.tolist(), abs=1e-5)
    assert summary["selected"] == [int(0.3 * n) for n in summary["scores"]]
    assert summary["images"] == 4 and sum(summary["predicted_pixels"]) == 4 * 48 * 96
    labelled = [int((np.array(found) == c).sum()) for c in range(19)]
    assert summary["labelled_pixels"] == labelled
    rare = [c for c, n in enumerate(summary["predicted_pixels"]) if n < 1e-3 * 4 * 48 * 96]
    assert summary["mined_classes"] == rare
    rows = {line.split("  ")[0]: line for line in said["hard"].stdout.splitlines()}
    assert f"{labelled[0]:,}" in rows["road"] and f"{thresholds[0]:.4f}" in rows["road"]
    vanished = [name for name in ("road", "train", "bicycle") if "no pixel" in rows[name]]
    assert vanished == [n for n, c in (("road", 0), ("train", 16), ("bicycle", 18)) if not labelled[c]]
    assert f"Labelled {100 * sum(labelled) / (4 * 48 * 96):.1f} % of the pixels" in said["hard"].stdout


def test_soft_labels_lie_beside_hard_ones(finished):
    world, _ = finished
    images = probabilities(world)
    _, thresholds = expected_labels(images)
    for name, p in zip(IMAGES, images, strict=True):
        soft = class_balance.soft_labels(p, thresholds, 0.25).numpy()
        planes = pixels_of(world / "soft" / name.replace(".png", "_soft.png")).reshape(19, 48, 96)
        assert np.mean(np.abs(planes / 255 - soft) < 0.51 / 255) > 0.999
        hard = pixels_of(world / "soft" / name)
        assert np.array_equal(hard == 255, planes.sum(0) == 0)
    assert read(world / "soft" / "class_balance.json")["lr_weight_ent"] == 0.25


def test_only_the_best_images_get_labels_and_shape_the_thresholds(finished):
    world, _ = finished
    images = dict(zip(IMAGES, probabilities(world), strict=True))
    best = sorted(sorted(images, key=lambda name: class_balance.image_score(images[name]))[1:])
    assert (world / "best" / "best_images.txt").read_text().split() == best
    labels, _ = expected_labels([images[name] for name in best])
    found = [pixels_of(world / "best" / name) for name in best]
    assert np.mean(np.array(found) == np.array(labels)) > 0.999
    assert len([*(world / "best").rglob("*_color.png")]) == 3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--portion", "0.3", "--threshold", "0.9"), "--threshold"),
        (("--portion", "0.333"), "--save"),
        (("--best-images", "3"), "--portion"),
        (("--lr-weight-ent", "0.25"), "--portion"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, named, trained, run_main):
    command = ("generate_plabel_cityscapes", "--restore-from", SNAPSHOT, *PREDICTION)
    one_line_error(run_main(*command, *flags), named)
