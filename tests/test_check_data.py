"""check_data.py: what it counts, what it finds wrong, what it proposes."""

import re
import shutil

import numpy as np
import pytest

from tests.conftest import TRAIN_IDS, describe, one_line_error, picture, pixels_of, save_png, write_gta5

CLASSES = {"road": {"ids": 3}, "grass": {"ids": [10, 11]}, "house": {"ids": 200}}
SIZE = (10, 20)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def yard(here):
    """A folder of three images, 200 pixels each, whose labels are known pixel by pixel."""
    labels = np.zeros((3, *SIZE), np.uint8)
    labels[0] = 3
    labels[0, :2] = 10
    labels[1] = 11
    labels[1, 0, :7] = 255
    labels[2] = 3
    labels[2, 5:, :3] = 0
    for name, label in zip("abc", labels, strict=True):
        save_png(here / "yard/images/train" / f"{name}.png", picture(np.random.default_rng(0), SIZE))
        save_png(here / "yard/labels/train" / f"{name}.png", label)
    describe(here / "yard/dataset.yaml", classes=CLASSES, ignore={"ids": [0]})
    return here / "yard"


@pytest.fixture
def check(run_main):
    """Run the script in this process; what it printed, and its faults, which must be counted in its error."""

    def run(*flags):
        result = run_main("check_data", *flags, "--num-workers", "0")
        faults = re.findall(r"^FAULT +(.*)$", result.stdout, re.M)
        if faults:
            one_line_error(result, flags[0], f"{len(faults)} problem(s)")
        else:
            assert result.returncode == 0 and result.stderr == "" and "No fault found." in result.stdout
        return result.stdout, faults

    return run


def row(text, name):
    """Pixels, percentage and images of a class in the printed table, and the remark."""
    found = re.search(rf"^{name} +(\d+) +([\d.]+) %(?: +(\d+)(?:  (.*))?)?$", text, re.M)
    assert found, text
    return int(found[1]), float(found[2]), found[3] and int(found[3]), found[4]


def test_pixels_and_images_of_every_class_are_counted(yard, check, run_main):
    text, _ = check("yard")
    assert row(text, "road") == (160 + 185, round(100 * (160 + 185) / 600, 3), 2, None)
    assert row(text, "grass") == (40 + 193, round(100 * (40 + 193) / 600, 3), 2, None)
    assert row(text, "house") == (0, 0, 0, "no pixel")
    assert row(text, "without label") == (22, round(100 * (7 + 15) / 600, 3), None, None)
    assert re.search(r"^images +3 of yard/images/train$", text, re.M)
    assert re.search(r"^sizes +20x10 \(3\)$", text, re.M) and re.search(r"^labels +3$", text, re.M)
    assert run_main("check_data", "yard", "--num-workers", "1").stdout == text


def test_the_published_sets_are_counted_too(here, check):
    write_gta5(here / "data" / "GTA5", count=2)
    labels = [pixels_of(path).ravel() for path in (here / "data/GTA5/labels").iterdir()]
    shares = 100 * np.bincount(np.concatenate(labels), minlength=256) / sum(map(len, labels))
    text, _ = check("gta5")
    assert row(text, "road")[1] == pytest.approx(shares[7], abs=6e-4)
    assert row(text, "bicycle")[1] == pytest.approx(shares[33], abs=6e-4)
    assert row(text, "without label")[1] == pytest.approx(shares[0] + shares[34], abs=6e-4)


def test_missing_labels_are_found(yard, check):
    (yard / "labels/train/b.png").unlink()
    text, faults = check("yard")
    assert faults == ["1 images have no label: b.png"] and re.search(r"^labels +2$", text, re.M)


def test_labels_of_another_size_and_files_that_cannot_be_read_are_found(yard, check):
    save_png(yard / "labels/train/a.png", np.full((11, 20), 3, np.uint8))
    (yard / "images/train/b.png").write_bytes(b"no picture")
    whole = (yard / "labels/train/c.png").read_bytes()
    (yard / "labels/train/c.png").write_bytes(whole[:-20])
    _, (size, image, cut) = check("yard")
    assert "labels/train/a.png" in size and "20x11" in size and "images/train/b.png" in image
    assert "labels/train/c.png" in cut and "cut short" in cut


def test_unknown_ids_are_counted_in_pixels_and_images(yard, check):
    for name, count in (("a", 3), ("c", 12)):
        label = pixels_of(yard / f"labels/train/{name}.png").copy()
        label[9, :count] = 77
        save_png(yard / f"labels/train/{name}.png", label)
    save_png(yard / "labels/train/b.png", np.full(SIZE, 40000, np.uint16))
    _, (few, many) = check("yard")
    assert few.startswith("id 77 ") and "15 pixels of 2 images" in few and "a.png" in few
    assert many.startswith("id 40000 ") and "200 pixels of 1 images" in many and "b.png" in many


def test_a_set_whose_ids_are_all_unknown_is_found(yard, check):
    for name in "abc":
        save_png(yard / f"labels/train/{name}.png", np.full(SIZE, 99, np.uint8))
    text, (fault,) = check("yard")
    assert "id 99" in fault and "600 pixels of 3 images" in fault and "nan" not in text


def test_unknown_colours_are_found(yard, check):
    label = np.zeros((*SIZE, 3), np.uint8)
    label[:, ::2] = 9
    for name in "abc":
        save_png(yard / f"labels/train/{name}.png", label)
    label[0, :2] = (1, 2, 3)
    save_png(yard / "labels/train/b.png", label)
    classes = {"road": {"color": [0, 0, 0]}, "grass": {"color": [9, 9, 9]}}
    describe(yard / "dataset.yaml", **{"label-format": "colors", "classes": classes})
    text, (fault,) = check("yard")
    assert "labels/train/b.png" in fault and "(1, 2, 3) in 2 pixels" in fault
    assert row(text, "road")[:3] == (200, 50, 2)


def write_train_ids(folder, table, void):
    """Replace the label ids in files by train ids, and those without a class by `void`."""
    for path in folder.rglob("*.png"):
        if "leftImg8bit" not in path.name:
            ids = pixels_of(path)
            train_ids = np.vectorize(lambda i: table.get(i, void))(ids)
            save_png(path, train_ids.astype(np.uint8))


@pytest.mark.parametrize("void", [255, 0])
@pytest.mark.parametrize(
    ("name", "place"), [("gta5", "GTA5/labels"), ("cityscapes", "Cityscapes/data/gtFine")]
)
def test_train_ids_in_the_files_of_label_ids_are_noted(name, place, void, world, check):
    assert "train ids" not in check(name)[0]
    write_train_ids(world / "data" / place, TRAIN_IDS, void)
    text, _ = check(name)
    assert re.search("^note +the labels hold no id from 19 to 254: they seem to be train ids", text, re.M)


def test_train_ids_in_own_labels_are_noted(yard, check):
    for name in "abc":
        label = pixels_of(yard / f"labels/train/{name}.png")
        ids = np.where(label == 255, 255, label != 3).astype(np.uint8)
        save_png(yard / f"labels/train/{name}.png", ids)
    describe(yard / "dataset.yaml", classes=CLASSES | {"house": {"ids": 1}}, ignore="others")
    text, _ = check("yard")
    assert "hold no id from 3 to 254" in text
    describe(yard / "dataset.yaml", classes={name: None for name in CLASSES}, **{"label-format": "train-ids"})
    assert "train ids" not in check("yard")[0].replace("train id  ", "")


def test_pictures_alone_have_no_fault(here, check):
    for number in range(6):
        save_png(here / f"photos/{number}.png", picture(np.random.default_rng(0), (10, 20 + number)))
    text, _ = check("photos")
    assert re.search(r"^images +6 of photos$", text, re.M) and "and 1 more" in text
    assert re.search(r"^labels +none.*not for a source$", text, re.M)


def test_a_target_is_counted_in_the_classes_of_its_source(yard, check):
    describe(
        yard / "source.yaml", classes={name: {"ids": 50 + n} for n, name in enumerate(("house", "road"))}
    )
    text, _ = check("yard", "--source", "yard/source.yaml")
    assert row(text, "house")[1:3] == (0, 0) and row(text, "road")[1:3] == (57.5, 2)
    assert row(text, "without label")[1] == 42.5 and "\ngrass " not in text
    assert re.search(r"^note +.*lacks grass", text, re.M)


@pytest.mark.parametrize(
    ("shape", "size", "note"),
    [
        ((480, 640), None, "680,512"),
        ((640, 480), None, "384,512"),
        ((512, 1024), None, None),
        ((500, 1040), None, None),
        ((480, 640), "640,480", None),
        ((480, 640), "640,640", "856,640"),
    ],
)
def test_a_size_that_keeps_the_shape_is_proposed(shape, size, note, here, check):
    save_png(here / "own/images/a.png", np.zeros((*shape, 3), np.uint8))
    describe(here / "own/dataset.yaml", classes=CLASSES, **({"size": size} if size else {}))
    text, _ = check("own")
    notes = re.findall(r"^note +.*stretched to (\d+,\d+).*; (\d+,\d+) keeps the shape", text, re.M)
    assert notes == ([(size or "1024,512", note)] if note else [])
    if note:
        width, height = map(int, note.split(","))
        assert width / height == pytest.approx(shape[1] / shape[0], rel=0.02) and width % 8 == 0


@pytest.mark.parametrize("flags", [(), ("--set", "val"), ("--set", "nonsense")])
def test_splits_that_are_read_alike_are_noted(flags, here, check):
    for weather in ("fog", "night"):
        for split in ("train", "val"):
            save_png(here / f"acdc/rgb/{weather}/{split}/a.png", picture(np.random.default_rng(0), SIZE))
    describe(here / "acdc/dataset.yaml", images="rgb", classes=CLASSES)
    text, _ = check("acdc", *flags)
    chosen = flags[1] if flags else "train"
    named = rf"--set {chosen} has no effect on acdc/rgb: images of train, val are read alike; .*\{{split}}"
    assert re.search(rf"^note +{named}", text, re.M) and re.search(r"^images +4 of", text, re.M)
    describe(here / "acdc/dataset.yaml", images="rgb/*/{split}", classes=CLASSES)
    if chosen != "nonsense":
        text, _ = check("acdc", *flags)
        assert "--set" not in text and re.search(r"^images +2 of acdc/rgb$", text, re.M)


def test_a_split_of_a_set_without_any_is_noted(here, check):
    write_gta5(here / "data" / "GTA5", count=1)
    assert "note    --set val has no effect on data/GTA5/images" in check("gta5", "--set", "val")[0]
    assert "--set" not in check("gta5")[0]


def test_a_few_images_of_another_shape_are_noted(here, check):
    for number in range(4):
        save_png(here / f"photos/{number}.png", np.zeros((24, 48 if number else 12, 3), np.uint8))
    text, _ = check("photos")
    assert (
        "note    as a target 1 of 4 images are stretched to 1024,512; 256,512 keeps the shape of 1 (" in text
    )


def test_the_named_split_list_and_folder_are_checked(yard, check):
    save_png(yard / "images/val/z.png", picture(np.random.default_rng(0), SIZE))
    assert re.search(r"^images +1 of yard/images/val$", check("yard", "--set", "val")[0], re.M)
    (yard / "list.txt").write_text("b.png\n")
    text, _ = check("yard", "--data-list", "yard/list.txt")
    assert re.search(r"^images +1 of", text, re.M) and row(text, "grass")[1] == 96.5
    shutil.copytree(yard / "images", yard / "elsewhere/images")
    text, _ = check("yard", "--data-dir", "yard/elsewhere")
    assert re.search(r"^images +3 of yard/elsewhere/images/train$", text, re.M)
