"""No file of the user is destroyed, and no half-made or mixed folder of predictions passes for whole."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.bad_input.world import save_snapshot
from tests.conftest import (
    PREDICTION,
    TRAINING,
    cityscapes_names,
    describe,
    files_of,
    label_blocks,
    one_line_error,
    picture,
    pixels_of,
    save_png,
)
from utils.atomic import lock_folder

A, B = "snapshots/a/GTA5_4.pth", "snapshots/b/GTA5_4.pth"
DATA = Path("data/Cityscapes/data")
LABELS = DATA / "pseudo_FULL/train"
GENERATE = ("generate_plabel_cityscapes", *PREDICTION)
EVALUATE = ("evaluate_cityscapes", *PREDICTION)
NAMES = cityscapes_names(2)


@pytest.fixture
def snapshots(world) -> Path:
    """A working folder with the snapshots of two networks."""
    for seed, path in enumerate((A, B)):
        torch.manual_seed(seed)
        save_snapshot(world / path)
    return world


@pytest.mark.parametrize("script", [GENERATE, EVALUATE])
@pytest.mark.parametrize(
    "save",
    ["leftImg8bit/{}", "gtFine/../leftImg8bit/{}", "link", "gtFine/{}", "leftImg8bit/val/new", "LINK/new"],
)
def test_predictions_are_not_written_among_images_or_labels(script, save, snapshots, run_main):
    (DATA / "link").symlink_to("leftImg8bit/train")
    (DATA / "LINK").symlink_to("leftImg8bit")
    split = "train" if script is GENERATE else "val"
    save = DATA / save.format(split).replace("LINK", f"LINK/{split}")
    before = files_of(snapshots)
    line = one_line_error(run_main(*script, "--restore-from", A, "--save", str(save)), f"--save {save}")
    assert "where the images are" in line or "where the labels are" in line
    assert files_of(snapshots) == before


def test_files_of_other_programs_are_not_replaced(snapshots, run_main):
    """The images of another data set, of which one has the name of a prediction."""
    save_png(snapshots / "photos" / NAMES[1], np.zeros((4, 4, 3), np.uint8))
    (snapshots / "table").mkdir()
    (snapshots / "table/metrics.json").write_text("{}")
    before = files_of(snapshots)
    one_line_error(run_main(*GENERATE, "--restore-from", A, "--save", "photos"), f"photos/{NAMES[1]}")
    one_line_error(run_main(*EVALUATE, "--restore-from", A, "--save", "table"), "table/metrics.json")
    assert files_of(snapshots) == before


def test_a_training_does_not_put_its_pictures_among_the_images(snapshots, run_main):
    folder = "data/GTA5/images/snapshots"
    one_line_error(run_main("train_ms", *TRAINING, "--snapshot-dir", folder), folder, "images")


@pytest.mark.parametrize("script", [GENERATE, EVALUATE, ("train_ms", *TRAINING)])
def test_a_folder_that_another_run_writes_to_is_refused(script, snapshots, run_main, monkeypatch):
    monkeypatch.setattr("utils.atomic.PATIENCE", 0)
    flag = "--snapshot-dir" if script[0] == "train_ms" else "--save"
    start = ("--restore-from", A) if flag == "--save" else ()
    with lock_folder(Path("out"), flag):
        before = files_of(snapshots)
        line = one_line_error(run_main(*script, *start, flag, "out"), f"{flag} out")
        assert "another run is writing to this folder" in line
        assert files_of(snapshots) == before
    assert not Path("out").exists()  # the lock leaves nothing


def test_labels_stopped_half_way_are_refused_and_the_same_command_goes_on(snapshots, run_main):
    assert run_main(*GENERATE, "--restore-from", A).returncode == 0
    whole = files_of(LABELS)
    image = DATA / "leftImg8bit/train" / NAMES[2]
    good = image.read_bytes()
    image.write_bytes(good[:100] + bytes(100) + good[200:])  # only decoding finds it
    stopped = run_main(*GENERATE, "--restore-from", B)
    one_line_error(stopped, NAMES[2], "2 of 4 images are done; the same command goes on with the others")
    (entry,) = yaml.safe_load((LABELS / "unfinished.yaml").read_text())
    assert entry["flags"]["restore_from"] == B and len(entry["snapshot"]) == 64
    training = ("train_ft", *TRAINING)
    one_line_error(run_main(*training), str(LABELS), f"unfinished, half made with {B}", "unfinished.yaml")

    image.write_bytes(good)
    done = {path: path.stat().st_mtime_ns for path in LABELS.glob("aachen/*")}
    said = run_main(*GENERATE, "--restore-from", B)
    assert "2 of 4 images were labelled by an earlier start." in said.stdout
    assert "Labelled 100.0 % of the pixels of 4 images" in said.stdout
    assert {path: path.stat().st_mtime_ns for path in done} == done
    said = run_main(*training)
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("Pseudo labels: ")]
    assert f"of {B}, SHA-256 {entry['snapshot'][:12]}…, threshold 1.0, weights 1:0.5, made 2" in line
    assert files_of(LABELS).keys() == whole.keys()  # the mark and the lock are gone

    # With the images that are there now, and only with these settings.
    save_png(image, picture(np.random.default_rng(5), (48, 96)))
    said = run_main(*GENERATE, "--restore-from", B).stdout
    assert "3 of 4 images were labelled by an earlier start." in said
    assert "earlier start" not in run_main(*GENERATE, "--restore-from", B, "--weights", "1:0").stdout


def test_labels_of_two_networks_are_refused_until_the_record_is_removed(snapshots, run_main):
    Path("part.txt").write_text(f"{NAMES[3]}\n")
    assert run_main(*GENERATE, "--restore-from", A).returncode == 0
    assert run_main(*GENERATE, "--restore-from", B, "--data-list", "part.txt").returncode == 0
    line = one_line_error(run_main("train_ft", *TRAINING), str(LABELS), "mixed, 1 of 4 labels", NAMES[3], A)
    assert "run.yaml" in line
    said = run_main("train_ft", *TRAINING, "--data-list", "part.txt").stdout
    assert f"Pseudo labels: of {B}" in said
    (LABELS / "run.yaml").unlink()
    said = run_main("train_ft", *TRAINING)
    assert said.returncode == 0 and "Pseudo labels: of unknown origin" in said.stdout


def test_a_half_made_evaluation_is_not_reported_as_the_old_one(snapshots, run_main):
    flags = (*EVALUATE, "--save", "out")
    assert run_main(*flags, "--restore-from", A).returncode == 0
    image = DATA / "leftImg8bit/val" / NAMES[3]
    good = image.read_bytes()
    image.write_bytes(good[:100] + bytes(100) + good[200:])
    stopped = run_main(*flags, "--restore-from", B)
    one_line_error(stopped, NAMES[3], "3 of 4 images are done; the same command starts over")
    one_line_error(run_main("report", "out"), "out: is unfinished", B)
    scoring = (
        "evaluate_cityscapes",
        "--predictions",
        "out",
        "--save",
        "scores",
        "--num-workers",
        "0",
        "--cpu",
    )
    one_line_error(run_main(*scoring), "out: is unfinished", B)
    image.write_bytes(good)
    assert run_main(*flags, "--restore-from", B).returncode == 0
    assert run_main("report", "out").returncode == 0


def test_an_error_before_the_first_file_leaves_a_finished_folder_finished(snapshots, run_main):
    assert run_main(*GENERATE, "--restore-from", A).returncode == 0
    before = files_of(LABELS)
    image = DATA / "leftImg8bit/train" / NAMES[0]
    good = image.read_bytes()
    image.write_bytes(good[:100] + bytes(100) + good[200:])
    one_line_error(run_main(*GENERATE, "--restore-from", B), NAMES[0], "0 of 4 images are done")
    assert files_of(LABELS) == before


def test_a_note_changes_no_pixel(snapshots, run_main):
    assert run_main(*GENERATE, "--restore-from", A).returncode == 0
    assert run_main(*EVALUATE, "--restore-from", A, "--set", "train", "--save", "out").returncode == 0
    for name in NAMES:
        ids = pixels_of(LABELS / name)
        assert ids.dtype == np.uint8 and ids.shape == (48, 96) and ids.max() < 19


def test_resume_notices_other_images_and_labels_made_anew(snapshots, run_main):
    labels = Path("labels")
    rng = np.random.default_rng(1)
    for name in NAMES:
        save_png(labels / name, label_blocks(rng, (48, 96), range(19)))
    for number, names in enumerate((NAMES[:2], NAMES[2:])):
        Path(f"list{number}.txt").write_text("\n".join(names))
    flags = (*TRAINING, "--num-steps-stop", "1", "--pseudo-dir", "labels", "--data-list", "list0.txt")
    assert run_main("train_ft", *flags).returncode == 0
    resumed = ("train_ft", "--resume")
    shutil.move("labels", "moved")
    assert "Not what" not in run_main(*resumed, "--pseudo-dir", "moved").stdout
    other = run_main(*resumed, "--pseudo-dir", "moved", "--num-steps-stop", "2", "--data-list", "list1.txt")
    assert "Not what an uninterrupted run would have computed: other labelled images" in other.stdout
    for name in NAMES[2:]:
        save_png(Path("moved") / name, label_blocks(rng, (48, 96), range(19), block=4))
    again = run_main(*resumed, "--num-steps-stop", "3")
    assert "other labelled images, or labels made anew" in again.stdout


def test_the_default_folder_of_labels_may_lie_below_the_labels_of_own_data(snapshots, run_main):
    rng = np.random.default_rng(3)
    for number in range(2):
        save_png(snapshots / f"own/images/{number}.png", picture(rng, (48, 96)))
        save_png(snapshots / f"own/{number}.png", label_blocks(rng, (48, 96), (7, 8)))
    classes = {"road": {"ids": 7}, "car": {"ids": 8}}
    describe(snapshots / "own/dataset.yaml", images="images", labels=".", classes=classes)
    flags = (*GENERATE, "--restore-from", A, "--target", "own")
    assert run_main(*flags).returncode == 0
    one_line_error(run_main(*flags, "--save", "own/more"), "own/more", "labels")
