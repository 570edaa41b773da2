"""Your own data: descriptions, folders of pictures, check_data.py, and whole runs on them."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dataset import DataError, adapt, build_dataset, find_domain
from dataset.base import PredictionDataset
from model.deeplab_multi import DeeplabMulti
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    TRAIN_IDS,
    TRAINING,
    describe,
    files_of,
    iou_of_files,
    label_blocks,
    make_unsure,
    one_line_error,
    picture,
    pixels_of,
    run_chain,
    save_by_pypng,
    save_png,
    write_cityscapes,
    write_gta5,
)

ORIENTATION = 0x0112  # EXIF
NETWORK = ("--use-se", "--norm-style", "gn")
STAGE2 = ("--lambda-adv-target1", "0", "--lambda-adv-target2", "0", "--learning-rate", "1e-5")
CAMPUS = {"road": {"ids": 3}, "grass": {"ids": [10, 11]}, "house": {"ids": 200, "color": [9, 8, 7]}}
SIZE = (24, 32)


def save_picture(path, pixels, **options):
    """Write a picture in the format that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def own_label(root, description, save, values):
    """Train ids of one own image whose label file `save` writes from `values`."""
    save_png(root / "images" / "a.png", picture(np.random.default_rng(0), values.shape[:2]))
    save(root / "labels" / "a.png", values)
    data = build_dataset(str(describe(root / "own.yaml", **description)))
    assert data.names.tolist() == ["a.png"] and data.check(labels_required=True)
    return data.train_ids("a.png").tolist()


# Labels


def grey(kind):
    return lambda path, ids: save_png(path, ids.astype(kind))


def channels(*others):
    """A label of several channels: the ids, then `others` times them."""
    return lambda path, ids: save_png(path, np.stack([ids, *(ids * n for n in others)], 2).astype(np.uint8))


def colour_16_bit(path, ids):
    save_by_pypng(path, np.stack([ids, np.full_like(ids, 1000), ids * 0], 2).astype(np.uint16))


@pytest.mark.parametrize(
    ("form", "save", "large"),
    [
        ("ids", grey(np.uint8), 200),
        ("ids", lambda path, ids: save_png(path, ids.astype(np.uint8), palette=[5] * 768), 200),
        ("ids", grey(np.uint16), 1000),
        ("first-channel", channels(7, 1), 200),
        ("first-channel", channels(0, 0, 0), 200),
        ("first-channel", grey(np.uint8), 200),
        ("first-channel", colour_16_bit, 65535),
    ],
    ids=["grey", "palette", "16-bit grey", "RGB", "RGBA", "grey as first channel", "16-bit RGB"],
)
def test_ids_read_as_the_place_of_their_class(form, save, large, tmp_path):
    classes = {"road": {"ids": 3}, "grass": {"ids": [10, 11]}, "house": {"ids": large}}
    ids = np.array([[3, 10, 11], [large, 0, 99]])
    description = {"label-format": form, "classes": classes, "ignore": {"ids": [0, 99]}}
    assert own_label(tmp_path, description, save, ids) == [[0, 1, 1], [2, 255, 255]]


def test_the_order_of_the_classes_is_that_of_the_train_ids_and_255_is_no_label(tmp_path):
    classes = {"z": {"ids": 1}, "a": {"ids": 0}, "m": {"ids": 2}}
    ids = np.array([[0, 1, 2, 255]])
    assert own_label(tmp_path, {"classes": classes}, grey(np.uint8), ids) == [[1, 0, 2, 255]]


@pytest.mark.parametrize("ignore", ["others", {"others": True}, {"ids": [7], "others": True}])
def test_every_other_id_can_be_ignored(ignore, tmp_path):
    ids = np.array([[3, 4, 7, 254, 65535, 259]])
    description = {"classes": {"road": {"ids": 3}}, "ignore": ignore}
    assert own_label(tmp_path, description, grey(np.uint16), ids) == [[0, 255, 255, 255, 255, 255]]


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colours_read_as_their_class_several_of_them_as_one(mode, tmp_path):
    # As in CamVid, where poles and lanes have several colours.
    classes = {
        "pole": {"colors": [[192, 192, 128], "#0000c0"]},
        "road": {"color": "#804080", "colors": [[128, 0, 192], [192, 0, 64]]},
        "dark": {"color": [0, 0, 1]},
    }
    pixels = np.array(
        [
            [(192, 192, 128), (0, 0, 192), (128, 64, 128), (128, 0, 192)],
            [(192, 0, 64), (0, 0, 1), (0, 0, 0), (1, 2, 3)],
        ],
        np.uint8,
    )

    def save(path, pixels):
        path.parent.mkdir(parents=True)
        image = Image.fromarray(pixels)
        image = image.quantize(16) if mode == "P" else image.convert(mode)
        assert image.mode == mode and np.array_equal(np.asarray(image.convert("RGB")), pixels)
        image.save(path)

    description = {
        "label-format": "colors",
        "classes": classes,
        "ignore": {"colors": [[0, 0, 0], "#010203"]},
    }
    assert own_label(tmp_path, description, save, pixels) == [[0, 0, 1, 1], [1, 2, 255, 255]]


def test_colours_show_predictions_the_first_of_several_and_a_drawn_one_for_none(tmp_path):
    classes = {
        "given": {"ids": 1, "color": "#0a0b0c"},
        "several": {"ids": 2, "colors": [[1, 2, 3], [4, 5, 6]]},
        **{f"none {n}": {"ids": 10 + n} for n in range(40)},
    }
    colors = find_domain(str(describe(tmp_path / "own.yaml", classes=classes))).colors
    assert colors["given"] == (10, 11, 12) and colors["several"] == (1, 2, 3)
    assert list(colors) == list(classes) and len(set(colors.values())) == 42


def test_scaled_and_cropped_samples_of_colours_show_their_class(tmp_path):
    rng = np.random.default_rng(0)
    shown = np.array([(10, 20, 30), (200, 100, 0), (0, 255, 9), (77, 77, 77)], np.uint8)
    ids = label_blocks(rng, (80, 120), range(4), block=20)
    save_png(tmp_path / "images" / "a.png", shown[ids])
    save_png(tmp_path / "labels" / "a.png", shown[ids])
    classes = {str(color): {"color": color} for color in shown.tolist()}
    describe(tmp_path / "own.yaml", **{"label-format": "colors", "classes": classes})
    data = build_dataset(
        str(tmp_path / "own.yaml"), labelled_stream=True, input_size=(90, 130), crop_size=(48, 64)
    )
    for _ in range(10):
        sample = data[0]
        expected = shown[sample["label"].clip(max=3)]
        same = np.abs(sample["image"].numpy().astype(int) - expected).max(2) < 30
        assert same[sample["label"] != 255].mean() > 0.85


# Where images and labels lie


def write_mixed(root, size=SIZE):
    """Pictures of every usual format and differing sizes, nested, with endings in capitals, hidden ones."""
    rng = np.random.default_rng(4)
    names = ["a.jpg", "b/c.webp", "b/d/e.bmp", "b/f.TIF", "g.PNG", "h.JPEG"]
    for index, name in enumerate(names):
        save_picture(root / name, picture(rng, (size[0] + 2 * index, size[1] + 3 * index)))
    for hidden in (".hidden.png", "b/._c.png", ".thumbs/x.jpg"):
        save_picture(root / hidden, picture(rng, size))
    (root / "notes.txt").write_text("no picture")
    return sorted(names)


def test_pictures_of_any_format_are_found_in_nested_folders_and_decoded(tmp_path):
    names = write_mixed(tmp_path / "photos")
    data = build_dataset(str(tmp_path / "photos"))
    assert data.names.tolist() == names and data.check(labels_required=False) is False
    seen = PredictionDataset(data, [(16, 24), (20, 30)], labels=False)
    assert {item["size"][0] for item in map(seen.__getitem__, range(6))} == {24, 26, 28, 30, 32, 34}
    assert all([tuple(i.shape) for i in seen[k]["images"]] == [(16, 24, 3), (20, 30, 3)] for k in range(6))
    red = np.zeros((10, 20, 3), np.uint8)
    red[..., 0] = 250
    for name in ("x.png", "x.bmp", "x.tif", "x.jpg", "x.webp"):
        shutil.rmtree(tmp_path / "red", ignore_errors=True)
        save_picture(tmp_path / "red" / name, red)
        image, _ = build_dataset(str(tmp_path / "red")).decode(name)
        assert np.abs(image.astype(int) - red).max() <= 6


def write_own(root, images, labels, names, size=SIZE, ids=(3, 10, 11, 200), /, **description):
    """An own data set with images and labels of all names at these paths; its description file."""
    rng = np.random.default_rng(8)
    for name in names:
        save_picture(root / images.format(name), picture(rng, size))
        save_png(root / labels.format(name), label_blocks(rng, size, ids, block=4))
    return describe(root / "own.yaml", **{"classes": CAMPUS} | description)


BOTH = ("images/{}.png", "labels/{}.png")
# Images, labels, description, names of the images.
LAYOUTS = {
    "the default": ("images/train/{}.jpg", "labels/train/{}.png", {}, "{}.jpg"),
    "without splits": ("images/{}.jpg", "labels/{}.png", {}, "{}.jpg"),
    "only images in splits": ("images/train/{}.jpg", "labels/{}.png", {}, "{}.jpg"),
    "labels among the images": (
        *("{}.png", "{}_L.png"),
        *({"images": ".", "labels": ".", "label-suffix": "_L.png"}, "{}.png"),
    ),
    "suffixes": (
        *("rgb/train/{}_rgb.png", "gt/train/{}_gt.png"),
        {"images": "rgb/{split}", "labels": "gt/{split}"}
        | {"image-suffix": "_rgb.png", "label-suffix": "_gt.png"},
        "{}_rgb.png",
    ),
    "suffixes in capitals": (
        *("{}_RGB.PNG", "labels/{}.png"),
        *({"images": ".", "image-suffix": "_rgb.png"}, "{}_RGB.PNG"),
    ),
    "the split first": (
        *("train/rgb/{}.webp", "train/gt/{}.png"),
        *({"images": "{split}/rgb", "labels": "{split}/gt"}, "{}.webp"),
    ),
    "CamVid": (
        *("train/{}.png", "trainannot/{}.png"),
        *({"images": "{split}", "labels": "{split}annot"}, "{}.png"),
    ),
    "labels in a folder below the images": ("{}.png", "labels/{}.png", {}, "{}.png"),
    "labels in splits below the images": ("{}.png", "labels/train/{}.png", {"images": "."}, "{}.png"),
    "a folder per weather": (
        *("rgb/fog/train/{}_rgb.png", "gt/fog/train/{}_gt.png"),
        {"images": "rgb/*/{split}", "labels": "gt/*/{split}"}
        | {"image-suffix": "_rgb.png", "label-suffix": "_gt.png"},
        "fog/train/{}_rgb.png",
    ),
    "a folder per town": (
        *("train/Town1_opt/rgb/{}.png", "train/Town1_opt/gt/{}.png"),
        *({"images": "{split}/*_opt/rgb", "labels": "{split}/*_opt/gt"}, "Town1_opt/rgb/{}.png"),
    ),
    "labels below a folder that a wildcard matches": (
        *("fog/train/{}.png", "labels/fog/train/{}.png"),
        *({"images": "*/{split}", "labels": "labels/*/{split}"}, "fog/train/{}.png"),
    ),
    "labels among images below wildcards": (
        *("fog/train/{}.png", "fog/train/{}_L.png"),
        {"images": "*/{split}", "labels": "*/{split}", "label-suffix": "_L.png"},
        "fog/train/{}.png",
    ),
    "one of several folders": (
        *("b/{}.jpg", "b_labels/{}.png"),
        *({"images": ["a", "b"], "labels": ["a_labels", "b_labels"]}, "b/{}.jpg"),
    ),
    "outside of the description's folder": (
        *("../elsewhere/images/{}.png", "../elsewhere/labels/{}.png"),
        *({"images": "../elsewhere/images", "labels": "../elsewhere/labels"}, "{}.png"),
    ),
    "below a root": ("there/images/{}.png", "there/labels/{}.png", {"root": "there"}, "{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_labels_are_found_where_the_description_says(layout, tmp_path):
    images, labels, description, name = LAYOUTS[layout]
    stems = ["a", "b.c", "deep/d"]
    (tmp_path / "own" / "a").mkdir(parents=True)  # empty
    own = write_own(tmp_path / "own", images, labels, stems, **description)
    data = build_dataset(str(own))
    assert data.names.tolist() == [name.format(stem) for stem in stems]
    assert data.check(labels_required=True)
    for stem, found in zip(stems, data.names, strict=True):
        assert data.image_path(found).samefile(tmp_path / "own" / images.format(stem))
        assert data.label_path(found).samefile(tmp_path / "own" / labels.format(stem))


def test_the_split_chooses_the_folder_and_a_set_without_parts_serves_every_split(tmp_path):
    for split, names in (("train", ["a", "b"]), ("val", ["c"])):
        paths = (f"{kind}/{split}/{{}}.png" for kind in ("images", "labels"))
        own = write_own(tmp_path / "parts", *paths, names)
    assert build_dataset(str(own)).names.tolist() == ["a.png", "b.png"]
    assert build_dataset(str(own), split="val").names.tolist() == ["c.png"]
    whole = write_own(tmp_path / "whole", *BOTH, ["a"])
    assert [build_dataset(str(whole), split=s).names.tolist() for s in ("train", "val", "x")] == [
        ["a.png"]
    ] * 3


def write_weathers(root, **description):
    """ACDC's layout: train and val below each weather, labels in train ids."""
    rng = np.random.default_rng(3)
    for weather in ("fog", "night"):
        for split, count in (("train", 2), ("val", 1)):
            for number in range(count):
                place = f"{weather}/{split}/GOPR{number}/{number}"
                save_png(root / "rgb_anon" / f"{place}_rgb_anon.png", picture(rng, SIZE))
                save_png(root / "gt" / f"{place}_gt_labelIds.png", label_blocks(rng, SIZE, LABEL_IDS))
                train_ids = label_blocks(rng, SIZE, (*range(19), 255))
                save_png(root / "gt" / f"{place}_gt_labelTrainIds.png", train_ids)
    keys = {"images": "rgb_anon/*/{split}", "labels": "gt/*/{split}", "image-suffix": "_rgb_anon.png"}
    return describe(root / "acdc.yaml", **keys, classes="cityscapes", **description)


@pytest.mark.parametrize("form", ["ids", "train-ids"])
def test_acdc_is_a_description_of_a_few_lines(form, tmp_path):
    suffix = "_gt_labelTrainIds.png" if form == "train-ids" else "_gt_labelIds.png"
    own = write_weathers(tmp_path, **{"label-suffix": suffix, "label-format": form})
    for split, count in (("train", 2), ("val", 1)):
        data = build_dataset(str(own), split=split)
        names = [f"{w}/{split}/GOPR{n}/{n}_rgb_anon.png" for w in ("fog", "night") for n in range(count)]
        assert data.names.tolist() == names and data.check(labels_required=True)
        assert data.colors == find_domain("cityscapes").colors
        for name in names:
            file = tmp_path / "gt" / name.replace("_rgb_anon.png", suffix)
            ids = pixels_of(file)
            assert data.label_path(name) == file
            expected = ids if form == "train-ids" else np.vectorize(TRAIN_IDS.get)(ids)
            assert np.array_equal(data.train_ids(name), expected)
    with pytest.raises(DataError, match="rgb_anon.*nonsense"):
        build_dataset(str(own), split="nonsense")


def test_a_list_names_images_below_wildcards(tmp_path):
    own = write_weathers(tmp_path, **{"label-suffix": "_gt_labelIds.png"})
    (tmp_path / "list.txt").write_text("night/val/GOPR0/0_rgb_anon.png\n")
    data = build_dataset(str(own), split="val", list_file=tmp_path / "list.txt")
    assert data.check(labels_required=True) and data.label_path(data.names[0]).parent.name == "GOPR0"
    with pytest.raises(DataError, match="night/val/.*none of the folders"):
        build_dataset(str(own), list_file=tmp_path / "list.txt").check(labels_required=True)


@pytest.mark.parametrize(
    ("images", "labels"),
    [(["train", "val", "test"], ["train_L", "val_L", "test_L"]), ("*", "*_L")],
    ids=["a list", "a wildcard"],
)
def test_several_folders_are_pooled_as_one_part(images, labels, tmp_path):
    for split in ("train", "val", "test"):
        own = write_own(
            tmp_path, f"{split}/{{}}.png", f"{split}_L/{{}}.png", ["a", "b"], images=images, labels=labels
        )
    data = build_dataset(str(own), split="whatever")
    assert data.names.tolist() == [
        f"{split}/{name}.png" for split in ("test", "train", "val") for name in "ab"
    ]
    assert data.check(labels_required=True) and not data.divided
    assert data.label_path("val/a.png") == tmp_path / "val_L/a.png"
    (tmp_path / "nihgt").mkdir()
    own = describe(
        tmp_path / "own.yaml", images=["train", "night"], labels=["train_L", "night_L"], classes=CAMPUS
    )
    with pytest.raises(DataError, match="night: no such folder"):
        build_dataset(str(own))


@pytest.mark.parametrize("ignore", ["others", {"others": True}, {"others": True, "colors": [[0, 0, 0]]}])
def test_blended_colours_along_smooth_edges_can_be_ignored(ignore, tmp_path):
    colors = np.array([(128, 64, 128), (0, 0, 142), (220, 20, 60)], np.uint8)
    sharp = Image.fromarray(colors[label_blocks(np.random.default_rng(0), (96, 192), range(3), 24)])
    turned = np.array(sharp.rotate(3, Image.Resampling.BICUBIC).resize((96, 48), Image.Resampling.BILINEAR))
    match = (turned[..., None, :] == colors).all(-1)
    expected = np.where(match.any(-1), match.argmax(-1), 255)
    assert 0.05 < (expected == 255).mean() < 0.5
    classes = {f"class {n}": {"color": color} for n, color in enumerate(colors.tolist())}
    description = {"label-format": "colors", "classes": classes, "ignore": ignore}
    assert own_label(tmp_path, description, save_png, turned) == expected.tolist()


def test_the_colours_of_cityscapes_are_read_by_its_name(tmp_path):
    colors = find_domain("cityscapes").colors
    pixels = np.array([list(colors.values())], np.uint8)
    description = {"label-format": "colors", "classes": "cityscapes"}
    assert own_label(tmp_path, description, save_png, pixels) == [list(range(19))]


def test_train_ids_are_the_places_of_the_classes(tmp_path):
    description = {"label-format": "train-ids", "classes": {"road": None, "car": {"color": "#00008e"}}}
    assert own_label(tmp_path, description, grey(np.uint8), np.array([[0, 1, 255]])) == [[0, 1, 255]]
    data = build_dataset(str(tmp_path / "own.yaml"))
    save_png(tmp_path / "labels" / "a.png", np.array([[0, 2, 255]], np.uint8))
    with pytest.raises(DataError, match="id 2 in 1 pixels"):
        data.train_ids("a.png")


def test_a_folder_with_a_description_is_named_by_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "campus"
    own = write_own(folder, *BOTH, ["a"])
    own.rename(folder / "dataset.yaml")
    monkeypatch.chdir(folder)
    for text in (str(folder), str(folder / "dataset.yaml"), "."):
        domain = find_domain(text)
        assert domain.prefix == "campus" and list(domain.colors) == ["road", "grass", "house"]
        assert build_dataset(text).names.tolist() == ["a.png"]


def test_a_list_chooses_and_orders_own_images(tmp_path):
    own = write_own(tmp_path, "images/{}.jpg", "labels/{}.png", ["a", "b", "d/c"])
    (tmp_path / "list.txt").write_text("d/c.jpg\na.jpg\na.jpg\n")
    data = build_dataset(str(own), list_file=tmp_path / "list.txt")
    assert data.names.tolist() == ["d/c.jpg", "a.jpg", "a.jpg"] and data.check(labels_required=True)


def test_a_photo_taken_sideways_is_shown_upright_and_has_its_upright_size(tmp_path):
    upright = np.zeros((40, 24, 3), np.uint8)
    upright[:20, :, 0] = 250  # red above, blue below
    upright[20:, :, 2] = 250
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90 degrees clockwise
    lying = np.rot90(upright)
    save_picture(tmp_path / "images" / "a.jpg", np.ascontiguousarray(lying), exif=exif, quality=95)
    save_png(tmp_path / "labels" / "a.png", (upright[..., 0] > 0).astype(np.uint8))
    own = describe(tmp_path / "own.yaml", classes={"blue": {"ids": 0}, "red": {"ids": 1}})
    data = build_dataset(str(own), input_size=(40, 24), crop_size=(40, 24), labelled_stream=False)
    assert data.check(labels_required=True)  # a label of the lying size would not fit
    sample = data[0]
    image, label = sample["image"].numpy(), sample["label"].numpy()
    assert np.array_equal(image[..., 0] > 125, label == 1) and np.array_equal(image[..., 2] > 125, label == 0)
    assert PredictionDataset(data, [(8, 8)], labels=True)[0]["size"] == (40, 24)


def test_the_size_of_the_description_is_the_default_of_all_streams(tmp_path):
    for size in ("1280,720", [1280, 720]):
        domain = find_domain(str(describe(tmp_path / "own.yaml", classes=CAMPUS, size=size)))
        assert domain.source_size == domain.target_size == domain.pseudo_size == (720, 1280)


@pytest.mark.parametrize(
    ("names", "images", "among"),
    [
        (["a.jpg", "b/c.jpg"], None, False),
        (["train/a.jpg", "val/b.jpg"], None, False),  # a folder of pictures whatever its folders are called
        (["a.jpg"], ".", False),
        (["train/a.jpg"], ".", False),
        (["a.jpg"], "{split}", False),
        (["train/a.jpg", "val/b.jpg"], "{split}", True),
        (["images/a.jpg"], None, True),
        (["images/train/a.jpg"], "images/{split}", True),
        (["fog/train/a.jpg"], "*/{split}", False),
        (["rgb/fog/train/a.jpg"], "rgb/*/{split}", True),
        (["train/a.jpg", "val/b.jpg"], ["train", "val"], True),
    ],
)
def test_pseudo_labels_never_lie_where_pictures_are_sought(names, images, among, tmp_path):
    root = tmp_path / "photos"
    for name in names:
        save_picture(root / name, picture(np.random.default_rng(0), SIZE))
    if images:
        describe(root / "dataset.yaml", classes=CAMPUS, images=images)
    before = build_dataset(str(root)).names.tolist()
    pair = adapt(find_domain("gta5"), find_domain(str(root)))
    folder = pair.pseudo_folder(root, "train", pair.threshold)
    assert folder == (root if among else tmp_path / "photos_pseudo") / "pseudo_FULL" / "train"
    for name in before:
        save_png((folder / name).with_suffix(".png"), np.zeros(SIZE, np.uint8))
    assert build_dataset(str(root)).names.tolist() == before
    assert build_dataset(str(root), pseudo=True).check(labels_required=True)


# Pairs of domains


def test_classes_of_two_own_sets_belong_together_by_name(tmp_path):
    source = describe(tmp_path / "source.yaml", classes=CAMPUS)
    names = ["house", "water", "road"]
    classes = {name: {"ids": 50 + n} for n, name in enumerate(names)}
    describe(tmp_path / "target" / "dataset.yaml", classes=classes, ignore={"ids": [9]})
    save_png(tmp_path / "target" / "images" / "a.png", picture(np.random.default_rng(0), (2, 2)))
    save_png(tmp_path / "target" / "labels" / "a.png", np.array([[50, 51], [52, 9]], np.uint8))
    pair = adapt(find_domain(str(source)), find_domain(str(tmp_path / "target")))
    assert pair.classes == ("road", "grass", "house") and pair.unknown_classes == ["water"]
    data = build_dataset(str(tmp_path / "target"), colors=pair.colors)
    assert data.train_ids("a.png").tolist() == [[2, 255], [0, 255]]


@pytest.fixture
def two_own(tmp_path, monkeypatch):
    """Own labelled source and target in ./data; the target has other ids and one class more."""
    own = ("house", "water", "road", "grass")
    for name, ids, classes in (
        ("source", (3, 10, 11, 200), CAMPUS),
        ("target", (50, 51, 52, 53), {c: {"ids": 50 + n} for n, c in enumerate(own)}),
    ):
        root = tmp_path / "data" / name
        write_own(root, *BOTH, ["a", "b"], (48, 80), ids).unlink()
        describe(tmp_path / f"{name}.yaml", root=f"data/{name}", classes=classes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK = (*TRAINING, "--num-steps", "1")


def test_classes_of_the_target_that_the_source_lacks_are_named_when_training(two_own, run_main):
    result = run_main("train_ms", "--source", "source.yaml", "--target", "target.yaml", *QUICK)
    assert result.returncode == 0 and result.stderr == ""
    assert "Target classes that the source lacks are ignored: water." in result.stdout
    assert (two_own / "snapshots" / "source_1.pth").is_file()
    assert json.loads((two_own / "snapshots" / "log.jsonl").read_text().splitlines()[0])["val"] > 0


def test_a_training_tells_what_is_not_as_its_flags_say(two_own, run_main):
    pair = ("--source", "source.yaml", "--target", "target.yaml", "--set", "nonsense", "--eval-every", "1")
    flags = ("--resume", "--lambda-kl-target", "0.1", "--input-size-target", "96,40")
    result = run_main("train_ms", *pair, *QUICK, *flags)
    assert result.returncode == 0 and result.stderr == ""
    for line in (
        "--lambda-kl-target has no effect: --reg-start 15000 is not reached in 1 iterations",
        "--set nonsense has no effect on data/target/images: it has no folders of splits",
        "--eval-set val has no effect on data/target/images",
        "--input-size-target: 2 of 2 images are stretched to 96,40; 64,40 keeps the shape of 2.",
        "--resume: nothing saved in snapshots: starts from iteration 0.",
    ):
        assert result.stdout.count(line) == 1, result.stdout
    assert "--input-size:" not in result.stdout
    again = run_main("train_ms", "--resume")
    assert again.returncode == 0 and "nothing saved" not in again.stdout


def test_online_self_training_draws_and_compares_own_classes_by_name(two_own, run_main):
    torch.save(DeeplabMulti(19, arch="mini").state_dict(), "initial.pth")
    flags = "--self-training --lambda-mask 1 --mask-block 8 --rcs 0.1 --rcs-pixels 60 --lambda-fd 0.1"
    flags += " --fd-classes house,road --imnet-from initial.pth --source source.yaml --target target.yaml"
    result = run_main("train_ms", *QUICK, *flags.split())
    assert result.returncode == 0 and result.stderr == "", result.stderr
    counts = json.loads(Path("data/source/class_pixels.json").read_text())
    assert counts["classes"] == list(CAMPUS) == ["road", "grass", "house"]
    assert yaml.safe_load(Path("snapshots/opts.yaml").read_text())["fd_classes"] == [0, 2]
    (line,) = map(json.loads, Path("snapshots/log.jsonl").read_text().splitlines())
    assert line["mix2"] > 0 and line["share"] >= 0 and math.isfinite(line["fd"])
    state = torch.load("snapshots/source_1_teacher.pth", weights_only=True)
    assert len(state["layer6.head.1.weight"]) == 3


def test_the_small_network_has_no_imagenet_weights(two_own, run_main):
    flags = ("--source", "source.yaml", "--target", "target.yaml", *QUICK, "--restore-from", "imagenet")
    one_line_error(run_main("train_ms", *flags), "--arch mini", "ImageNet", "--restore-from none")
    assert not (two_own / "snapshots").exists()


def test_a_target_without_any_class_of_the_source_is_refused(two_own, run_main):
    describe(two_own / "target.yaml", root="data/target", classes={"Road": {"ids": 50}, "sea": {"ids": 51}})
    result = run_main("train_ms", "--source", "source.yaml", "--target", "target.yaml", *QUICK)
    one_line_error(result, "--target target.yaml", "Road, sea", "road, grass, house", "by name")


def test_an_own_source_adapts_to_cityscapes_by_the_names_of_its_classes(two_own, run_main):
    write_cityscapes(two_own / "data" / "Cityscapes" / "data")
    classes = {"car": {"ids": 3}, "road": {"ids": [10, 11]}, "UFO": {"ids": 200}}
    describe(two_own / "source.yaml", root="data/source", name="mine", classes=classes)
    result = run_main("train_ms", "--source", "source.yaml", *QUICK)
    assert result.returncode == 0 and "are ignored: sidewalk, building" in result.stdout
    result = run_main("evaluate_cityscapes", "--restore-from", "snapshots/mine_1.pth", *PREDICTION)
    assert result.returncode == 0 and "source.yaml -> cityscapes, 3 classes" in result.stdout
    metrics = json.loads((two_own / "result" / "cityscapessnapshots" / "metrics.json").read_text())
    root = two_own / "data/Cityscapes/data/gtFine/val"
    counts = np.zeros(256, int)
    for path in root.rglob("*.png"):
        counts += np.bincount(pixels_of(path).ravel(), minlength=256)
    assert np.sum(metrics["confusion"], 1).tolist() == [counts[26], counts[7], 0]
    assert list(metrics["iou"]) == ["car", "road", "UFO"]


@pytest.mark.parametrize(("count", "target"), [(9, "cityscapes"), (8, "robotcar")])
def test_an_own_snapshot_is_for_the_target_it_was_trained_with(count, target, two_own, run_main):
    classes = {"road": {"ids": [3, 200]}, **{f"c{n}": {"ids": n + 20} for n in range(count - 2)}}
    classes["grass"] = {"ids": [10, 11]}
    describe(two_own / "source.yaml", root="data/source", classes=classes)
    root = two_own / "data"
    write_cityscapes(root / "Cityscapes" / "data", splits=["train"], count=1)
    save_png(root / "Oxford_Robot_ICCV19" / "train" / "a.png", picture(np.random.default_rng(0), (48, 64)))
    result = run_main("train_ms", "--source", "source.yaml", "--target", target, *QUICK)
    assert result.returncode == 0, result.stderr
    result = run_main("evaluate_cityscapes", "--restore-from", "snapshots/source_1.pth", *PREDICTION)
    assert f"source.yaml -> {target}, {count} classes" in result.stdout


def test_gta5_adapts_to_a_bare_folder_and_a_described_one(two_own, run_main):
    write_gta5(two_own / "data" / "GTA5")
    for target in ("data/source/images", "target.yaml"):
        result = run_main("train_ms", "--target", target, *QUICK, "--snapshot-dir", "./snap")
        assert result.returncode == 0 and result.stderr == "", result.stderr
        options = yaml.safe_load((two_own / "snap" / "opts.yaml").read_text())
        assert options["target"] == target and options["num_classes"] == len(LABEL_IDS)
        flags = ("--restore-from", "snap/GTA5_1.pth", *PREDICTION)
        assert run_main("generate_plabel_cityscapes", *flags).returncode == 0
    assert len(list((two_own / "data/source/images_pseudo/pseudo_FULL/train").glob("?.png"))) == 2
    assert len(list((two_own / "data/target/pseudo_FULL/train").glob("?.png"))) == 2


# From the first script to the last


@pytest.fixture(scope="module")
def campus(tmp_path_factory):
    """The working folder after all scripts: own source -> bare folder of photos; what each said."""
    world = tmp_path_factory.mktemp("own")
    paths = (f"there/{path}" for path in BOTH)
    own = write_own(world, *paths, list("abcd"), (48, 80), root="there", name="Campus-1")
    own.rename(world / "campus.yaml")
    write_mixed(world / "photos", (40, 72))
    classes = {"grass": {"ids": 0}, "road": {"ids": 1}, "house": {"ids": 2}, "water": {"ids": 3}}
    paths = (f"{kind}/val/{{}}.png" for kind in ("images", "labels"))
    write_own(world / "city", *paths, list("xy"), (44, 76), range(4), classes=classes)
    (world / "city" / "own.yaml").rename(world / "city" / "dataset.yaml")
    pair = ("--source", "campus.yaml", "--target", "photos")
    said = run_chain(
        world, {"stage 1": ("train_ms", *pair, "--snapshot-dir", "./snapshots/one", *TRAINING, *NETWORK)}
    )
    snapshot = "./snapshots/one/Campus-1_4.pth"
    make_unsure(world / snapshot)
    stage2 = ("--restore-from", snapshot, "--snapshot-dir", "./snapshots/two")
    evaluate = ("evaluate_cityscapes", "--restore-from", "./snapshots/two/Campus-1_4.pth")
    said |= run_chain(
        world,
        {
            "generate": ("generate_plabel_cityscapes", "--restore-from", snapshot, *PREDICTION),
            "stage 2": ("train_ft", *pair, *stage2, *TRAINING, *NETWORK, *STAGE2),
            "evaluate": (*evaluate, *PREDICTION, "--target", "city"),
        },
    )
    return world, said


def test_own_snapshots_carry_the_name_and_the_classes_of_the_description(campus):
    for stage, is_adversarial in (("one", True), ("two", False)):
        folder = campus[0] / "snapshots" / stage
        assert (folder / "Campus-1_4.pth").is_file()
        assert (folder / "Campus-1_2_D1.pth").is_file() == is_adversarial
        assert {path.name.split("_")[0] for path in folder.glob("*.pth")} == {"Campus-1"}
        options = yaml.safe_load((folder / "opts.yaml").read_text())
        assert list(options["classes"]) == ["road", "grass", "house"] and options["num_classes"] == 3
        assert options["classes"]["house"] == [9, 8, 7] and options["source"] == "campus.yaml"
        state = torch.load(folder / "Campus-1_2.pth", weights_only=True)
        assert [len(state[f"layer{n}.head.1.weight"]) for n in (5, 6)] == [3, 3]


def test_pseudo_labels_of_a_bare_folder_lie_beside_it_and_not_among_its_pictures(campus):
    world, said = campus
    names = ["a", "b/c", "b/d/e", "b/f", "g", "h"]
    folder = world / "photos_pseudo" / "pseudo_Campus-1" / "train"
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    pictures = [f"{n}{kind}.png" for n in names for kind in ("", "_color", "_heatmap")]
    assert written == sorted([*pictures, "run.yaml"])
    files = {str(p.relative_to(world / "photos")) for p in files_of(world / "photos")}
    assert files == {
        *("a.jpg", "b/c.webp", "b/d/e.bmp", "b/f.TIF", "g.PNG", "h.JPEG"),
        *(".hidden.png", "b/._c.png", ".thumbs/x.jpg", "notes.txt"),
    }
    for step in ("stage 1", "stage 2"):
        assert re.search(r"^Target: +6 images in photos \(no labels\)$", said[step].stdout, re.M)
    assert re.search(r"^Labelled: 6 images in photos$", said["stage 2"].stdout, re.M)
    for index, name in enumerate(names):
        label = pixels_of(folder / f"{name}.png")
        assert label.dtype == np.uint8 and set(np.unique(label)) <= {0, 1, 2}
        assert label.shape == (40 + 2 * index, 72 + 3 * index)
    assert "Labelled 100.0 % of the pixels of 6 images" in said["generate"].stdout


def score_by_hand(world, folder):
    labels = [pixels_of(world / "city/labels/val" / f"{n}.png") for n in "xy"]
    train_ids = np.array([1, 0, 2, 255])  # grass, road, house, water
    return iou_of_files(
        [train_ids[label] for label in labels], [pixels_of(folder / f"{n}.png") for n in "xy"], 3
    )


def test_an_own_labelled_target_is_scored_in_the_classes_of_the_source(campus):
    world, said = campus
    folder = world / "result" / "city_two"
    matrix, values = score_by_hand(world, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["confusion"] == matrix.tolist() and list(metrics["iou"]) == ["road", "grass", "house"]
    assert metrics["means"] == {"mIoU": pytest.approx(np.nanmean(values), abs=1e-12)}
    assert re.search(rf"^mIoU +{100 * np.nanmean(values):.2f}$", said["evaluate"].stdout, re.M)
    for name in "xy":
        label, color = (pixels_of(folder / f"{name}{kind}.png") for kind in ("", "_color"))
        assert (color[label == 2] == (9, 8, 7)).all() and (label == 2).any()


def test_evaluation_needs_the_description_no_more(campus, tmp_path, monkeypatch, run_main):
    shutil.copytree(campus[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "campus.yaml").unlink()
    before = (tmp_path / "result" / "city_two" / "metrics.json").read_text()
    shutil.rmtree(tmp_path / "result")
    flags = ("--restore-from", "./snapshots/two/Campus-1_4.pth", *PREDICTION)
    result = run_main("evaluate_cityscapes", *flags, "--target", "city")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "result" / "city_two" / "metrics.json").read_text() == before
    shutil.rmtree(tmp_path / "photos")
    one_line_error(run_main("evaluate_cityscapes", *flags), "--target", "photos")


def test_the_page_of_an_own_target_is_in_its_colours(campus, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(campus[0])
    result = run_main("report", "result/city_two", "--save", tmp_path / "page.html")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'style="background:rgb(9,8,7)"></span>house' in page
    assert len(re.findall('alt="label of [xy]', page)) == 2 and "no image" not in page


def test_predicting_tells_what_is_not_as_its_flags_say(campus, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(campus[0])
    snapshot = "snapshots/one/Campus-1_4.pth"
    flags = ("--restore-from", snapshot, *PREDICTION, "--save", str(tmp_path / "seen"))
    result = run_main("generate_plabel_cityscapes", *flags, "--set", "test", "--input-size", "96,24")
    assert result.returncode == 0 and "--set test has no effect on photos: " in result.stdout
    assert re.search(r"--input-size: 6 of 6 images are stretched to 96,24; \d+,24 keeps", result.stdout)
    assert "--set" not in campus[1]["generate"].stdout


def test_evaluating_a_target_of_pictures_alone_says_that_it_has_no_labels(campus, monkeypatch, run_main):
    monkeypatch.chdir(campus[0])
    flags = ("--restore-from", "./snapshots/two/Campus-1_4.pth", *PREDICTION)
    one_line_error(run_main("evaluate_cityscapes", *flags), "photos", "without labels", "dataset.yaml")


def test_a_description_that_changed_since_does_not_change_the_classes(
    campus, tmp_path, monkeypatch, run_main
):
    shutil.copytree(campus[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    described = yaml.safe_load((tmp_path / "campus.yaml").read_text())
    described["classes"] = {"house": {"ids": 200}, "road": {"ids": 3}, "grass": {"ids": [10, 11]}}
    describe(tmp_path / "campus.yaml", **described)
    flags = ("--restore-from", "./snapshots/two/Campus-1_4.pth", *PREDICTION, "--save", "./again")
    assert run_main("evaluate_cityscapes", *flags, "--target", "city").returncode == 0
    written = [tmp_path / folder / "metrics.json" for folder in ("again", "result/city_two")]
    assert written[0].read_text() == written[1].read_text()


# Mistakes in a description

ROAD = "classes:\n  road: {ids: 7}\n"
COLORED = "label-format: colors\nclasses:\n  road: {color: [1, 2, 3]}\n"
# A class -> what the message must name besides it.
CLASS_MISTAKES = {
    "{id: 7}": ["'id'", "ids"],
    "{ids: [6, 7]}": ["id 7", "road", "already"],
    "{ids: [8, 8]}": ["id 8", "already"],
    "{}": ["no ids"],
    "{ids: []}": ["no ids"],
    "7": ["7", "keys"],
    "": ["None", "keys"],
    "{ids: 65536}": ["65536", "65535"],
    "{ids: -1}": ["-1"],
    "{ids: true}": ["True"],
    "{ids: '8'}": ["'8'"],
    "{ids: [8.0]}": ["8.0"],
    "{ids: 8, color: [1, 2]}": ["[1, 2]"],
    "{ids: 8, color: [1, 2, 256]}": ["256"],
    "{ids: 8, color: [1, -2, 3]}": ["-2"],
    "{ids: 8, color: [true, 2, 3]}": ["True"],
    "{ids: 8, color: blue}": ["blue", "#rrggbb"],
    "{ids: 8, color: '#12345'}": ["#12345"],
    "\n    ids: 8\n    color: #112233": ["color", "quotes"],  # a comment, to YAML
    "{ids: 8, colors: [1, 2, 3]}": ["color 1", "[red, green, blue]"],
    "{ids: 8, colors: 7}": ["colors", "list"],
}
# The same in a description of colour labels.
COLORED_MISTAKES = {
    "{colors: [[9, 9, 9], '#010203']}": ["(1, 2, 3)", "road", "already"],
    "{colors: [[4, 4, 4], '#040404']}": ["(4, 4, 4)", "already"],
    "{}": ["no colors"],
    "{ids: 7, color: [4, 4, 4]}": ["ids", "colors"],
}
# A whole description -> what the message must name.
MISTAKES = {
    f"clases: {{}}\n{ROAD}": ["clases", "unknown", "classes"],
    f"{ROAD}ignore: {{id: [1]}}": ["ignore", "'id'", "others"],
    f"{ROAD}ignore: {{ids: [7]}}": ["ignore", "id 7", "road"],
    f"{ROAD}ignore: {{ids: [many]}}": ["ignore", "many"],
    f"{ROAD}ignore: 7": ["ignore", "7"],
    f"{ROAD}ignore: {{others: all}}": ["ignore", "others", "all"],
    f"{COLORED}ignore: {{colors: [[1, 2, 3]]}}": ["ignore", "(1, 2, 3)", "road"],
    "classes:\n  road: {ids: 7, color: [1, 2, 3]}\n  sky: {ids: 8, color: '#010203'}": ["sky", "road"],
    f"{ROAD}size: 1280": ["size", "1280", "width,height"],
    f"{ROAD}size: 0,720": ["size", "0,720"],
    f"{ROAD}size: [wide, 3]": ["size", "wide"],
    f"{ROAD}name: a/b": ["name", "a/b", "letters"],
    f"{ROAD}name: ..": ["name", "'..'"],
    f"{ROAD}name: [1]": ["name", "[1]"],
    f"{ROAD}name: 7": ["name", "7", "quotes"],
    f'{ROAD}name: "a\\n"': ["name"],
    f"{ROAD}root: 7": ["root", "7"],
    f"{ROAD}images: [a, 7]": ["images", "7"],
    f"{ROAD}images: []": ["images", "[]"],
    f"{ROAD}images: [a, /b]": ["images", "relative"],
    f"{ROAD}images: a/**/b": ["images", "a/**/b", "each level"],
    f"{ROAD}images: [a, b]\nlabels: c": ["labels", "1 folders for 2 of images"],
    f"{ROAD}labels: [c, d]": ["labels", "2 folders for 1 of images"],
    f"{ROAD}images: a/*\nlabels: b/*/*": ["labels", "b/*/*", "a/*"],
    "label-format: train-ids\nclasses:\n  road: {ids: 7}": ["road", "ids", "train-ids"],
    f"{ROAD}label-suffix: a/b.png": ["label-suffix", "a/b.png"],
    f"{ROAD}label-format: colours": ["label-format", "colours", "colors"],
    "name: a": ["classes", "one class per line"],
    "classes: {}": ["classes", "one class per line"],
    "classes: [road, sky]": ["classes", "one class per line"],
    "classes:\n" + "".join(f"  c{n}: {{ids: {n}}}\n" for n in range(256)): ["256 classes", "255"],
    "just a word": ["just a word", "keys"],
    "": ["keys"],
    "- road\n- sky": ["road", "keys"],
    ROAD + ROAD: ["'classes'", "repeated", "line 3"],
    "classes:\n  a: {ids: 1}\n  a: {ids: 2}": ["'a'", "repeated", "line 3"],
    f"{ROAD}? [a, b]\n: 1": ["not valid YAML"],
    "classes: {road: {ids: 7}": ["not valid YAML", "line 1"],
    "classes:\n\troad: {ids: 7}": ["not valid YAML", "line 2"],
    f"{ROAD}---\n{ROAD}": ["not valid YAML"],
    f"name: !!timestamp a\n{ROAD}": ["not valid YAML"],
    f"name: &name a\nroot: *name\n{ROAD}": ["not valid YAML", "aliases", "line 2"],
}
MISTAKES |= {f"{ROAD}  sky: {text}": ["sky", *named] for text, named in CLASS_MISTAKES.items()}
MISTAKES |= {f"{COLORED}  sky: {text}": ["sky", *named] for text, named in COLORED_MISTAKES.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_description_is_named(text, here):
    (here / "own.yaml").write_text(text)
    with pytest.raises(DataError, match=r"^own\.yaml: ") as raised:
        find_domain("own.yaml")
    for part in MISTAKES[text]:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train_ms", ("--source", "own.yaml")),
        ("train_ms", ("--target", "own.yaml")),
        ("train_ft", ("--source", "own.yaml")),
        ("evaluate_cityscapes", ("--predictions", ".", "--target", "own.yaml")),
        ("check_data", ("gta5", "--source", "own.yaml")),
    ],
)
def test_every_script_names_a_mistake_in_a_description(script, flags, here, run_main):
    (here / "own.yaml").write_text("clases: {}\n")
    one_line_error(run_main(script, *flags), "own.yaml", "clases")
    assert [path.name for path in here.iterdir()] == ["own.yaml"]


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch executed']",
        "!!python/object/new:subprocess.Popen [[touch, executed]]",
        "!!python/name:os.system",
    ],
)
def test_a_description_executes_nothing(tag, here, run_main):
    (here / "own.yaml").write_text(f"name: {tag}\n{ROAD}")
    one_line_error(run_main("check_data", "own.yaml"), "own.yaml", "not valid YAML", "python/")
    assert [path.name for path in here.iterdir()] == ["own.yaml"]


@pytest.mark.parametrize("content", [bytes(range(256)) * 4, b"\x89PNG\r\n\x1a\n" + bytes(50), b"\0\0\0"])
def test_a_binary_file_is_no_description(content, here, run_main):
    (here / "own.yaml").write_bytes(content)
    one_line_error(run_main("check_data", "own.yaml"), "own.yaml")


# Data that cannot be used

# Files, a line of the description, what the message must name.
UNUSABLE = [
    ([], "", ["no file", ".jpg"]),
    ([], "root: there", ["there", "no such folder"]),
    ([], "images: pictures", ["pictures", "no such folder"]),
    (["labels/a.png"], "", ["no file", ".jpg"]),
    (["images/a.png"], "image-suffix: _rgb.png", ["images", "_rgb.png"]),
    (["images/b/a.png", "images/b/a.JPG"], "", ["images", "b/a.JPG", "b/a.png", "suffix"]),
]


@pytest.mark.parametrize(("files", "line", "named"), UNUSABLE)
def test_a_folder_that_cannot_be_used_is_named(files, line, named, here):
    for name in files:
        save_picture(here / name, picture(np.random.default_rng(0), SIZE))
    (here / "own.yaml").write_text(ROAD + line)
    with pytest.raises(DataError) as raised:
        build_dataset("own.yaml")
    assert all(part in str(raised.value) for part in named)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--source", "robotcar"], ["--source", "robotcar", "gta5, synthia, cityscapes"]),
        (["--target", "gta5"], ["--target", "gta5", "cityscapes, robotcar"]),
        (["--source", "photos"], ["--source photos", "no classes", "dataset.yaml"]),
        (["--source", "nowhere"], ["--source", "nowhere", "nor an existing description file or folder"]),
    ],
)
@pytest.mark.parametrize("script", ["train_ms", "train_ft"])
def test_a_domain_that_does_not_serve_is_named(script, flags, named, here, run_main):
    save_picture(here / "photos/a.png", picture(np.random.default_rng(0), SIZE))
    one_line_error(run_main(script, *TRAINING, *flags), *named)


@pytest.fixture
def yard(here):
    """A described folder of one image and its label, which a test spoils."""
    own = write_own(here / "yard", *BOTH, ["a"], (48, 80))
    return own, here / "yard/images/a.png", here / "yard/labels/a.png"


def test_photographs_of_16_bits_in_one_channel_are_refused(yard):
    own, image, _ = yard
    save_png(image, np.full((48, 80), 4000, np.uint16))
    with pytest.raises(DataError, match="images/a.png: .*more than 8 bits.*8-bit RGB"):
        build_dataset(str(own)).check(labels_required=False)


def test_a_label_colour_that_no_class_has_is_named_with_its_pixels(yard):
    own, _, path = yard
    label = np.zeros((48, 80, 3), np.uint8)
    label[0, :2], label[5, 5] = (1, 2, 3), (7, 7, 8)
    save_png(path, label)
    describe(own, **{"label-format": "colors", "classes": {"road": {"color": [0, 0, 0]}}})
    named = r"labels/a.png: .*\(1, 2, 3\) in 2 pixels, \(7, 7, 8\) in 1 pixels.*description"
    with pytest.raises(DataError, match=named):
        build_dataset(str(own)).train_ids("a.png")


def test_an_id_that_no_class_has_is_named_with_its_pixels(yard):
    own, _, path = yard
    label = np.full((48, 80), 3, np.uint8)
    label[10:14, 20:25] = 44
    label[0, 0] = 45
    save_png(path, label)
    data = build_dataset(str(own), input_size=(48, 80), crop_size=(48, 80))
    for read in (data.train_ids, lambda name: data.sample(0, np.random.default_rng(0))):
        with pytest.raises(DataError, match="labels/a.png: id 44 in 20 pixels, 45 in 1 pixels"):
            read("a.png")


def test_labels_must_be_complete_and_of_the_image_size(yard):
    own, _, label = yard
    data = build_dataset(str(own), labelled_stream=True)
    for pixels, problem in (
        (np.full((47, 80), 3, np.uint8), "80x47 .* 80x48"),
        (np.zeros((48, 80, 3), np.uint8), "one id per pixel, .* RGB"),
        (None, "no such label file"),
    ):
        if pixels is None:
            label.unlink()
        else:
            save_png(label, pixels)
        for use in (lambda: data.check(labels_required=True), lambda: data[0]):
            with pytest.raises(DataError, match=f"labels/a.png: .*{problem}"):
                use()


def test_an_own_target_without_its_labels_trains(two_own, run_main):
    shutil.rmtree(two_own / "data" / "target" / "labels")
    result = run_main("train_ms", "--source", "source.yaml", "--target", "target.yaml", *QUICK)
    assert result.returncode == 0 and "(no labels)" in result.stdout
