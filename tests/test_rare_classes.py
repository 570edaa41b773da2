"""Rare class sampling: how often each class is drawn, what its crops show, what is counted when."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from dataset import build_dataset
from dataset.rare_classes import RareClasses, class_pixels, class_probabilities
from dataset.sampling import TrainingStream
from tests.conftest import LABEL_IDS, TRAIN_IDS, TRAINING, one_line_error, pixels_of
from tests.test_golden import close, golden

SIZE = (48, 80)
RARE = TRAIN_IDS[33]  # bicycle


@pytest.mark.parametrize("number", [1, 2])
def test_probabilities_are_the_released_ones(number):
    reference = golden(f"online_{number}.json")
    for expected in reference["results"]["rcs"]:
        found = class_probabilities(reference["settings"]["class_pixels"], expected["temperature"])
        assert found.dtype == torch.float64
        assert found.tolist() == close(expected["probabilities"])


def source(world, **options):
    options = dict(input_size=SIZE, crop_size=(16, 24), labelled_stream=True, label_scales=(1, 1)) | options
    return build_dataset("gta5", world / "data" / "GTA5", **options)


def test_counts_are_those_of_the_label_files(world):
    data = source(world)
    pixels = class_pixels(data, workers=0)
    for name, row in zip(data.names, pixels, strict=True):
        ids = pixels_of(data.label_path(name))
        assert row.tolist() == [(ids == label).sum() for label in LABEL_IDS]


def test_labels_are_counted_once_and_again_where_they_changed(world, caplog):
    caplog.set_level(logging.INFO)
    data, root = source(world), world / "data" / "GTA5"
    first = class_pixels(data, workers=0)
    assert "4 labels" in caplog.text and (root / "class_pixels.json").is_file()
    caplog.clear()
    assert np.array_equal(class_pixels(source(world), workers=0), first) and not caplog.text
    labels = [root / "labels" / f"0000{number}.png" for number in (1, 2)]
    sizes = [path.stat().st_size for path in labels]
    shutil.copy(labels[1], labels[0])
    assert sizes[0] != sizes[1]
    changed = class_pixels(source(world), workers=0)
    assert "4 labels" in caplog.text
    assert np.array_equal(changed[0], first[1]) and np.array_equal(changed[1:], first[1:])


def test_where_nothing_can_be_kept_labels_are_counted_every_time(world, caplog):
    (world / "data" / "GTA5" / "class_pixels.json").mkdir()
    assert np.array_equal(class_pixels(source(world), workers=0), class_pixels(source(world), workers=0))
    assert caplog.text.count("counted again next time") == 2


def test_daformers_file_is_read_where_it_has_all_labels(world, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"file": f"data/gta/labels/0000{n}_labelTrainIds.png", "0": 10 * n, "18": n} for n in range(1, 5)]
    path = world / "data" / "GTA5" / "sample_class_stats.json"
    path.write_text(json.dumps(rows))
    pixels = class_pixels(source(world), workers=0)
    assert pixels[:, 0].tolist() == [10, 20, 30, 40] and pixels[:, 18].tolist() == [1, 2, 3, 4]
    assert pixels[:, 1:18].sum() == 0 and not caplog.text
    path.write_text(json.dumps(rows[:3]))
    assert class_pixels(source(world), workers=0)[:, 1:18].sum() > 0 and "4 labels" in caplog.text


def test_images_are_drawn_by_class_as_often_as_said():
    pixels = np.zeros((10, 3), np.int64)
    pixels[:, 0], pixels[:2, 1], pixels[5, 2], pixels[6, 2] = 900, 100, 11, 10
    rare = RareClasses(pixels, ("road", "car", "train"), temperature=0.5, min_pixels=10, crop_share=0.5)
    stream = TrainingStream(list(range(10)), 0, (1, 0), draw_rare=rare.draw)
    drawn = [rare.draw(np.random.default_rng(n)) for n in range(4000)]
    shares = pixels.sum(0) / pixels.sum()
    expected = np.exp((1 - shares) / 0.5)
    found = np.bincount([wanted.train_id for _, wanted in drawn]) / len(drawn)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.02)
    images = {index: {image for image, wanted in drawn if wanted.train_id == index} for index in range(3)}
    assert images == {0: set(range(10)), 1: {0, 1}, 2: {5}}
    assert {wanted.pixels for _, wanted in drawn} == {5}
    assert [stream.draw(position) for position in range(5)] == [stream.draw(p) for p in range(5)]


def test_classes_that_are_too_rare_are_named_and_the_others_drawn(caplog):
    pixels = np.array([[50, 20, 3, 0]])
    rare = RareClasses(pixels, ("road", "car", "train", "bus"), 0.1, min_pixels=10, crop_share=0.5)
    assert caplog.messages == [
        "--rcs leaves out train: no image has more than 10 pixels of it; lower --rcs-pixels to draw it."
    ]
    assert rare.probabilities.sum().item() == pytest.approx(1)
    assert (rare.probabilities > 0).tolist() == [True, True, False, False]


def test_crops_show_the_class_that_they_were_drawn_for(world):
    data = source(world)
    pixels = class_pixels(data, workers=0)
    rare = RareClasses(pixels, tuple(data.colors), 0.01, min_pixels=40, crop_share=1)
    shown = []
    for searched in (True, False):
        stream = TrainingStream(data, 200, (1, 0), draw_rare=rare.draw)
        rare.crop_pixels = 40 if searched else -1
        found = 0
        for position in range(100):
            train_id = stream.draw(position)[1].train_id
            found += (stream[position]["label"] == train_id).sum() > 40
        shown.append(found)
    assert shown[0] > 1.5 * shown[1]


def test_a_training_draws_by_class_and_names_what_it_cannot_draw(world, run_main):
    flags = (*TRAINING, "--lambda-adv-target1", "0", "--lambda-adv-target2", "0", "--rcs", "0.01")
    snapshots = []
    for more in (("--rcs-pixels", "60"), ("--rcs-pixels", "60", "--num-workers", "1")):
        result = run_main("train_ms", *flags, *more, "--snapshot-dir", "run")
        assert result.returncode == 0, result.stderr
        snapshots.append((world / "run" / "GTA5_4.pth").read_bytes())
    assert snapshots[0] == snapshots[1]
    one_line_error(run_main("train_ms", *flags, "--snapshot-dir", "other"), "--rcs-pixels 3000", "lower it")
