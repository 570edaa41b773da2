"""The rule of dataset/survey.py: is there a labelled pixel, and a second class, to learn from or to score?"""

import json
import re

import numpy as np
import pytest

from dataset import build_dataset
from dataset.survey import check_learnable, survey_labels
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    TRAIN_IDS,
    TRAINING,
    cityscapes_names,
    describe,
    label_blocks,
    one_line_error,
    picture,
    pixels_of,
    run_in,
    save_png,
    write_world,
)

GTA5, TARGET = "data/GTA5/labels", "data/Cityscapes/data"
NAMES = cityscapes_names(2)
QUICK = (*TRAINING, "--num-steps", "2", "--save-num-images", "0")
ROAD, CAR = LABEL_IDS[0], LABEL_IDS[13]
VOID = {"all 255": 255, "all of ignored ids": 1}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """A Stage-I network of two iterations, which is sure of nothing."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    made = run_in(folder, "train_ms", *QUICK, "--snapshot-dir", "s")
    assert made.returncode == 0, made.stderr
    return folder / "s/GTA5_2.pth"


def fill(folder, label, names="*.png"):
    """Replace the labels below a folder by one of a single id, or by an array."""
    paths = sorted(folder.rglob(names))
    for path in paths:
        save_png(path, np.broadcast_to(np.uint8(label), pixels_of(path).shape).copy())
    assert paths


def shares(text):
    """Class -> percent in a printed table."""
    rows = re.findall(r"^(\w[\w ]*?) +(?:[\d,]+|-) +([\d.]+)(?: %)?(?: +.*)?$", text, re.M)
    return {name: float(percent) for name, percent in rows}


@pytest.mark.parametrize("label", VOID.values(), ids=VOID)
def test_a_source_without_a_labelled_pixel_is_refused(label, world, run_main):
    fill(world / GTA5, label)
    result = run_main("train_ms", *QUICK, "--snapshot-dir", "s")
    one_line_error(result, f"{GTA5}/00001.png", "no label has a pixel of a class (4 labels)", "check_data.py")
    assert not (world / "s").exists()
    survey = run_main("check_data", "gta5", "--num-workers", "0")
    assert survey.returncode == 2 and "FAULT   no label has a pixel of a class" in survey.stdout


def test_training_and_scoring_warn_of_train_ids_read_as_label_ids(snapshot, world, run_main):
    table = np.array([TRAIN_IDS.get(i, 255) for i in range(256)], np.uint8)
    labels = (
        *(world / "data/GTA5/labels").iterdir(),
        *(world / "data/Cityscapes/data/gtFine").rglob("*.png"),
    )
    for path in labels:
        save_png(path, table[pixels_of(path)])
    flags = ("--restore-from", snapshot, *PREDICTION, "--save", "out")
    for result in (run_main("train_ms", *QUICK), run_main("evaluate_cityscapes", *flags)):
        assert result.returncode == 0
        assert (
            result.stdout.count("Warning: the labels hold no id from 19 to 254: they seem to be train ids")
            == 1
        )


def test_labels_of_a_single_class_teach_nothing(world, run_main):
    fill(world / GTA5, ROAD)
    one_line_error(run_main("train_ms", *QUICK), f"{GTA5}/00001.png", "every labelled pixel is road")
    assert "FAULT   every labelled pixel is road" in run_main("check_data", "gta5").stdout
    # As a target it can be scored in the classes of a source, which is said.
    fill(world / TARGET / "gtFine/val", CAR)
    survey = run_main("check_data", "cityscapes", "--set", "val", "--source", "gta5")
    assert survey.returncode == 0 and "note    every labelled pixel is car" in survey.stdout


def test_ids_without_a_class_are_none_in_sets_that_know_every_id(world, run_main):
    # SYNTHIA and RobotCar ignore any id without a class, such as the high bytes of 16-bit labels: all 0.
    for root, name in (("synthia/RGB", "synthia/GT/LABELS"), ("Oxford_Robot_ICCV19/val", None)):
        save_png(world / "data" / root / "1.png", picture(np.random.default_rng(0), (48, 80)))
        save_png(
            world / "data" / (name or "Oxford_Robot_ICCV19/anno") / "1.png", np.zeros((48, 80), np.uint8)
        )
    one_line_error(run_main("train_ms", "--source", "synthia", *QUICK), "data/synthia/GT/LABELS/1.png")
    scored = ("--predictions", ".", "--source", "cityscapes", "--target", "robotcar", "--cpu")
    one_line_error(run_main("evaluate_cityscapes", *scored), "data/Oxford_Robot_ICCV19/anno/1.png", "score")
    for name, split in (("synthia", "train"), ("robotcar", "val")):
        survey = run_main("check_data", name, "--set", split, "--num-workers", "0")
        assert "FAULT   no label has a pixel of a class" in survey.stdout


def test_two_classes_in_the_last_image_are_found_and_good_labels_are_not_all_read(world):
    data = build_dataset("gta5")
    assert survey_labels(data, sample=2).counted == 2
    fill(world / GTA5, 0)
    label = np.zeros((48, 80), np.uint8)
    label[0, 0], label[1, 1] = ROAD, CAR
    save_png(world / GTA5 / "00004.png", label)
    for sample in (1, 2, 200):
        survey = survey_labels(data, sample)
        assert survey.counted == 4 and survey.occurring(tuple(data.colors)) == ["road", "car"]
    assert check_learnable(data).labelled_share(tuple(data.colors)) == 2 / (4 * 48 * 80)


def write_pseudo_labels(world, ids, labelled=48 * 96):
    """Pseudo labels whose first so many pixels are of these train ids, each image's others of none."""
    for name in NAMES:
        label = np.full((48, 96), 255, np.uint8)
        label.flat[:labelled] = np.resize(ids, labelled)
        save_png(world / TARGET / "pseudo_FULL/train" / name, label)


def test_pseudo_labels_of_nothing_are_refused_and_of_one_class_warned_of(world, run_main):
    write_pseudo_labels(world, [255])
    result = run_main("train_ft", *QUICK)
    lack = "no label has a pixel of a class (4 labels)"
    one_line_error(result, f"{TARGET}/pseudo_FULL/train: ", lack, "lower --threshold")
    write_pseudo_labels(world, [2])
    assert "Warning: every labelled pixel is building; a single class" in run_main("train_ft", *QUICK).stdout


def test_stage_2_shows_each_class_and_warns_of_almost_empty_labels(world, run_main):
    write_pseudo_labels(world, [0, 0, 0, 13], labelled=200)
    result = run_main("train_ft", *QUICK)
    assert result.returncode == 0 and "Classes in 4 labels:" in result.stdout
    assert "Warning: almost nothing is labelled: 4.3 % of the pixels; a lower --threshold" in result.stdout
    table = shares(result.stdout)
    assert table["road"] == 3.255 and table["car"] == 1.085 and table["without label"] == 95.66
    assert re.search("^bus +0 +0.000 % +0 +no pixel$", result.stdout, re.M)
    write_pseudo_labels(world, [0, 13], labelled=250)
    assert "almost nothing" not in run_main("train_ft", *QUICK).stdout


def test_generating_shows_the_share_of_each_class_of_its_labels(snapshot, world, run_main):
    flags = ("--restore-from", str(snapshot), *PREDICTION, "--save", "made")
    text = run_main("generate_plabel_cityscapes", *flags).stdout
    labels = np.stack([pixels_of(world / "made" / name) for name in NAMES])
    for train_id, name in enumerate(build_dataset("cityscapes").colors):
        assert shares(text)[name] == pytest.approx(100 * (labels == train_id).mean(), abs=6e-4)
    assert "Warning" not in text and shares(text)["without label"] == 0
    text = run_main("generate_plabel_cityscapes", *flags, "--threshold", "0.9").stdout
    assert "Labelled 0.0 % of the pixels" in text and shares(text)["without label"] == 100
    assert "Warning: no label has a pixel of a class; lower --threshold" in text


def test_void_labels_are_refused_before_predicting(snapshot, world, run_main):
    (world / TARGET / "gtFine/val").rename(world / TARGET / "gtFine/test")
    (world / TARGET / "leftImg8bit/val").rename(world / TARGET / "leftImg8bit/test")
    fill(world / TARGET / "gtFine/test", 3)
    for scored in (("--restore-from", str(snapshot)), ("--predictions", ".")):
        result = run_main("evaluate_cityscapes", *scored, *PREDICTION, "--set", "test", "--save", "out")
        one_line_error(
            result, f"{TARGET}/gtFine/test/", "no label has a pixel of a class", "nothing to score"
        )
        assert not (world / "out").exists()
    fill(world / TARGET / "gtFine/test", CAR)
    result = run_main("evaluate_cityscapes", "--restore-from", str(snapshot), *PREDICTION, "--set", "test")
    assert result.returncode == 0 and "Warning: every labelled pixel is car; a single class" in result.stdout


def test_a_validation_without_a_labelled_pixel_is_refused_before_training(world, run_main):
    fill(world / TARGET / "gtFine/val", 0)
    result = run_main("train_ms", *QUICK, "--eval-every", "1", "--snapshot-dir", "s")
    one_line_error(result, f"{TARGET}/gtFine/val/", "nothing to score")
    assert not (world / "s").exists()


@pytest.mark.parametrize("labels", ["void", "few", "gone"])
def test_the_log_has_no_val_where_the_target_has_no_labels(labels, world, run_main):
    folder = world / TARGET / "gtFine/train"
    fill(folder, 1)
    if labels == "gone":
        for path in folder.rglob("*.png"):
            path.unlink()
    if labels == "few":
        fill(folder, label_blocks(np.random.default_rng(0), (48, 96)), f"{NAMES[0].split('/')[1][:20]}*")
    result = run_main("train_ms", *QUICK, "--num-steps", "6", "--batch-size", "1", "--snapshot-dir", "s")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (world / "s/log.jsonl").read_text().splitlines()]
    values = [line["val"] for line in lines if "val" in line]
    assert np.isfinite(values).all() and (0 < len(values) < 6 if labels == "few" else not values)
    assert ("(no labels)" in result.stdout) == (labels != "few")


def test_a_description_of_a_single_class_is_refused(snapshot, world, run_main):
    save_png(world / "clinic/images/train/1.png", picture(np.random.default_rng(0), (48, 80)))
    save_png(world / "clinic/labels/train/1.png", label_blocks(np.random.default_rng(0), (48, 80), (0, 1)))
    describe(world / "clinic/dataset.yaml", classes={"road": {"ids": 1}}, ignore="others")
    predict = ("--restore-from", str(snapshot), *PREDICTION, "--target", "clinic")
    for script, *flags in (
        ("check_data", "clinic"),
        ("train_ms", "--source", "clinic", *QUICK),
        ("train_ms", "--target", "clinic", *QUICK),
        ("train_ft", "--source", "clinic", "--target", "clinic", *QUICK),
        ("generate_plabel_cityscapes", *predict),
        ("evaluate_cityscapes", *predict),
    ):
        one_line_error(run_main(script, *flags), "clinic", "road is the only class", "the background")


def test_classes_that_do_not_meet_are_refused_wherever_a_target_enters(snapshot, world, run_main):
    save_png(world / "sea/1.png", picture(np.random.default_rng(0), (48, 80)))
    describe(world / "sea/dataset.yaml", classes={"sea": {"ids": 1}, "Road": {"ids": 2}}, images=".")
    predict = ("--restore-from", str(snapshot), *PREDICTION, "--target", "sea")
    for script, *flags in (
        ("check_data", "sea", "--source", "gta5"),
        ("train_ms", "--target", "sea", *QUICK),
        ("generate_plabel_cityscapes", *predict),
        ("evaluate_cityscapes", *predict),
    ):
        one_line_error(run_main(script, *flags), "--target sea", "none of its classes (sea, Road)")


def test_labels_are_counted_as_there_although_their_images_have_faults(world, run_main):
    for number in range(2):
        save_png(world / f"own/images/{number}.png", np.full((48, 80), 7000, np.uint16))
        save_png(world / f"own/labels/{number}.png", label_blocks(np.random.default_rng(0), (48, 80), (0, 1)))
    describe(world / "own/dataset.yaml", classes={"road": {"ids": 0}, "car": {"ids": 1}})
    text = run_main("check_data", "own", "--num-workers", "0").stdout
    assert re.search(r"^labels +2$", text, re.M) and len(re.findall("^FAULT", text, re.M)) == 2


def test_shares_are_of_all_pixels_also_where_ids_are_unknown(world, run_main):
    for number in range(2):
        label = np.full((48, 80), 9, np.uint8)
        label[:24] = number
        save_png(world / f"own/images/{number}.png", picture(np.random.default_rng(0), (48, 80)))
        save_png(world / f"own/labels/{number}.png", label)
    describe(world / "own/dataset.yaml", classes={"road": {"ids": 0}, "car": {"ids": 1}})
    table = shares(run_main("check_data", "own", "--num-workers", "0").stdout)
    assert table == {"road": 25, "car": 25, "without label": 50}
