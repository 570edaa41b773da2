"""SYNTHIA and Oxford RobotCar from labels to scores, and recognising the domains of published snapshots."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import png
import pytest
import torch
import yaml

from dataset import DataError, adapt, build_dataset, find_domain
from dataset.images import FirstChannelReader, IdReader
from dataset.sampling import TrainingStream
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    TRAINING,
    cityscapes_names,
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
)

# Label id -> train id, written out here and not imported: the tests are to notice a wrong table.
SYNTHIA = {
    **{3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9},
    **{1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18},
}
ROBOTCAR = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 10: 7, 11: 8, 12: 8, 13: 8, 14: 8, 17: 8}
CITYSCAPES_AS_ROBOTCAR = {
    **{23: 0, 24: 1, 25: 1, 32: 2, 33: 2, 26: 3, 27: 3, 28: 3},
    **{20: 4, 19: 5, 11: 6, 8: 7, 7: 8},
}
ROBOTCAR_COLORS = {
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "two-wheel": (119, 11, 32),
    "automobile": (0, 0, 142),
    "sign": (220, 220, 0),
    "light": (250, 170, 30),
    "building": (70, 70, 70),
    "sidewalk": (244, 35, 232),
    "road": (128, 64, 128),
}
NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle"),
    "bicycle",
)
OF_16 = [i for i in range(19) if i not in (9, 14, 16)]
OF_13 = [i for i in range(19) if i not in (9, 14, 16, 3, 4, 5)]
SIZE = (48, 96)  # of Cityscapes' images
NETWORK = ("--use-se", "--norm-style", "gn")
STAGE2 = ("--lambda-adv-target1", "0", "--lambda-adv-target2", "0")
PROCESSED = ("", "_color", "_heatmap")


def table(train_ids):
    """(65536,) train id of every id, 255 for those without."""
    reads = np.full(65536, 255)
    reads[list(train_ids)] = list(train_ids.values())
    return reads


def channels(ids, dtype=np.uint16):
    """SYNTHIA's label: ids in red, the number of an instance in green, nothing in blue."""
    largest = np.iinfo(dtype).max
    instances = np.arange(ids.size).reshape(ids.shape) * 257 % largest
    return np.stack([ids, instances, np.zeros_like(ids)], 2).astype(dtype)


def by_opencv(*flags, alpha=False):
    """Write RGB by OpenCV, whose order is BGR, with a filter of the rows that the flags choose."""

    def write(path, pixels):
        blue_first = pixels[..., ::-1]
        if alpha:
            opaque = np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
            blue_first = np.concatenate([blue_first, opaque], 2)
        assert cv2.imwrite(str(path), np.ascontiguousarray(blue_first), list(flags))

    return write


def with_filter(kind):
    return by_opencv(cv2.IMWRITE_PNG_FILTER, kind, cv2.IMWRITE_PNG_COMPRESSION, 6)


WRITERS = {
    "pypng": save_by_pypng,
    "opencv": by_opencv(),
    "opencv, no filter": with_filter(cv2.IMWRITE_PNG_FILTER_NONE),
    "opencv, sub": with_filter(cv2.IMWRITE_PNG_FILTER_SUB),
    "opencv, up": with_filter(cv2.IMWRITE_PNG_FILTER_UP),
    "opencv, average": with_filter(cv2.IMWRITE_PNG_FILTER_AVG),
    "opencv, Paeth": with_filter(cv2.IMWRITE_PNG_FILTER_PAETH),
    "opencv, uncompressed": by_opencv(cv2.IMWRITE_PNG_COMPRESSION, 0),
}


def one_synthia_image(root, ids, write=save_by_pypng, dtype=np.uint16):
    """A SYNTHIA folder of one image; its data set."""
    save_png(root / "RGB" / "0000000.png", picture(np.random.default_rng(0), ids.shape))
    (root / "GT" / "LABELS").mkdir(parents=True, exist_ok=True)
    write(root / "GT" / "LABELS" / "0000000.png", channels(ids, dtype))
    size = dict(input_size=ids.shape, crop_size=ids.shape, labelled_stream=False)
    return build_dataset("synthia", root, **size)


def write_synthia(root, count=4, size=(48, 80)):
    """SYNTHIA's layout with 16-bit labels in blocks."""
    rng = np.random.default_rng(5)
    (root / "GT" / "LABELS").mkdir(parents=True)
    for number in range(count):
        save_png(root / "RGB" / f"{number:07}.png", picture(rng, size))
        ids = label_blocks(rng, size, range(23)).astype(np.uint16)
        by_opencv()(root / "GT" / "LABELS" / f"{number:07}.png", channels(ids))
    return root


# SYNTHIA's labels


@pytest.mark.parametrize("writer", WRITERS)
def test_every_synthia_id_in_red_reads_as_its_train_id(writer, tmp_path):
    ids = np.arange(24).reshape(4, 6) % 23
    data = one_synthia_image(tmp_path, ids, WRITERS[writer])
    label = data[0]["label"]
    assert label.dtype == torch.uint8 and np.array_equal(label, table(SYNTHIA)[ids])
    assert np.array_equal(data.train_ids("0000000.png"), table(SYNTHIA)[ids])
    assert sorted(set(SYNTHIA.values())) == list(range(19)) and data.check(labels_required=True)


@pytest.mark.parametrize("writer", [save_by_pypng, by_opencv(alpha=True)], ids=["RGB", "alpha"])
def test_synthia_labels_of_8_bits_a_channel_read_alike(writer, tmp_path):
    ids = np.arange(24).reshape(4, 6) % 23
    data = one_synthia_image(tmp_path, ids, writer, np.uint8)
    assert np.array_equal(data.train_ids("0000000.png"), table(SYNTHIA)[ids])


@pytest.mark.parametrize(
    "writer",
    [by_opencv(alpha=True), lambda path, pixels: save_by_pypng(path, pixels, interlace=True)],
    ids=["alpha", "interlaced"],
)
def test_16_bit_labels_of_other_layouts_are_refused_and_not_read_as_0(writer, tmp_path):
    data = one_synthia_image(tmp_path, np.arange(24).reshape(4, 6) % 23, writer)
    with pytest.raises(DataError, match="0000000.png: more than 8 bits per channel; save it as PNG, RGB"):
        data.train_ids("0000000.png")


@pytest.mark.parametrize("writer", ["pypng", "opencv"])
def test_ids_whose_bytes_are_a_class_each_have_none_in_synthia(writer, tmp_path):
    # 259 has 3 in its low byte, 768 in its high one, 771 in both; 3 itself is road.
    ids = np.array([[259, 768, 771, 3], [65535, 256, 255, 23]])
    data = one_synthia_image(tmp_path, ids, WRITERS[writer])
    assert data.train_ids("0000000.png").tolist() == [[255, 255, 255, 0], [255, 255, 255, 255]]


def test_synthia_names_its_images_by_its_layout(tmp_path):
    data = build_dataset("synthia", write_synthia(tmp_path, count=3))
    assert data.names.tolist() == ["0000000.png", "0000001.png", "0000002.png"]
    assert data.image_path(data.names[1]) == tmp_path / "RGB" / "0000001.png"
    assert data.label_path(data.names[1]) == tmp_path / "GT" / "LABELS" / "0000001.png"


def test_synthia_is_scaled_and_cropped_with_its_label(tmp_path):
    rng = np.random.default_rng(0)
    ids = label_blocks(rng, (100, 160), range(23), block=20)
    shown = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    one_synthia_image(tmp_path, ids.astype(np.uint16), by_opencv())
    save_png(tmp_path / "RGB" / "0000000.png", shown[ids])
    data = build_dataset("synthia", tmp_path, input_size=(120, 200), crop_size=(64, 96))
    train_ids_of_color = {}
    for number, color in enumerate(shown[:23].tolist()):
        train_ids_of_color[tuple(color)] = table(SYNTHIA)[number]
    for index in range(20):
        sample = TrainingStream(data, 20, (3, 0))[index]
        image, label = sample["image"].numpy(), sample["label"].numpy()
        flat = (image[1:-1, 1:-1] == image[:-2, :-2]).all(2) & (image[1:-1, 1:-1] == image[2:, 2:]).all(2)
        known = [
            (train_ids_of_color[tuple(color)], found)
            for color, found in zip(image[1:-1, 1:-1][flat].tolist(), label[1:-1, 1:-1][flat], strict=True)
            if tuple(color) in train_ids_of_color
        ]
        assert len(known) > 500 and np.mean([expected == found for expected, found in known]) > 0.98


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 100] = bytes(100)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (cut, "(cut short|not a readable image)"),
        (spoil, "not a readable image"),
        (lambda path: save_by_pypng(path, channels(np.ones((50, 80), int))), "80x50 .* 80x48"),
        (lambda path: path.unlink(), "no such label file"),
        (lambda path: path.write_text("<html>404</html>"), "not a readable image"),
    ],
    ids=["cut short", "spoilt", "another size", "missing", "no image"],
)
def test_a_synthia_label_that_cannot_be_used_is_named(prepare, problem, tmp_path):
    data = build_dataset("synthia", write_synthia(tmp_path))
    prepare(tmp_path / "GT/LABELS/0000002.png")
    with pytest.raises(DataError, match=f"GT/LABELS/0000002.png: .*{problem}"):
        data.sample(2, np.random.default_rng(0))
    if prepare is not spoil:  # its header is whole
        with pytest.raises(DataError, match=f"GT/LABELS/0000002.png: .*{problem}"):
            data.check(labels_required=True)


# SYNTHIA -> Cityscapes, from the first script to the last


@pytest.fixture(scope="module")
def synthia(tmp_path_factory):
    """The working folder after the four scripts, and what each of them said."""
    world = tmp_path_factory.mktemp("synthia")
    write_synthia(world / "data" / "synthia")
    write_cityscapes(world / "data" / "Cityscapes" / "data")
    said = run_chain(
        world,
        {
            "stage 1": (
                *("train_ms", "--source", "synthia", "--snapshot-dir", "./snapshots/one"),
                *(*TRAINING, *NETWORK),
            )
        },
    )
    make_unsure(world / "snapshots" / "one" / "SYNTHIA_4.pth")
    said |= run_chain(
        world,
        {
            "generate": (
                *("generate_plabel_cityscapes", "--restore-from", "./snapshots/one/SYNTHIA_4.pth"),
                *PREDICTION,
            ),
            "stage 2": (
                *("train_ft", "--source", "synthia", "--restore-from", "./snapshots/one/SYNTHIA_4.pth"),
                *("--snapshot-dir", "./snapshots/two", "--learning-rate", "1e-5"),
                *(*TRAINING, *NETWORK, *STAGE2),
            ),
            "evaluate": (
                *("evaluate_cityscapes", "--restore-from", "./snapshots/two/SYNTHIA_4.pth"),
                *PREDICTION,
            ),
            "all pixels": (
                *("evaluate_cityscapes", "--restore-from", "./snapshots/one/SYNTHIA_4.pth", *PREDICTION),
                *("--set", "train", "--save", "./all"),
            ),
        },
    )
    return world, said


@pytest.mark.parametrize("stage", ["one", "two"])
def test_snapshots_of_synthia_carry_its_name(synthia, stage):
    folder = synthia[0] / "snapshots" / stage
    parts = ("", "_D1", "_D2") if stage == "one" else ("",)  # Stage II trains no discriminators
    expected = [f"SYNTHIA_{i}{suffix}.pth" for i in (2, 4) for suffix in parts]
    assert sorted(path.name for path in folder.glob("*.pth")) == sorted(expected)
    options = yaml.safe_load((folder / "opts.yaml").read_text())
    assert options["source"] == "synthia" and options["target"] == "cityscapes"
    assert options["num_classes"] == 19 and tuple(options["classes"]) == NAMES
    assert options["data_dir"] == ("data/synthia" if stage == "one" else "data/Cityscapes/data")


def test_pseudo_labels_of_synthia_are_sure_to_0_9_and_lie_where_stage_2_looks(synthia):
    world, said = synthia
    assert "synthia -> cityscapes, 19 classes" in said["generate"].stdout
    folder = world / "data/Cityscapes/data/pseudo_SYNTHIA/train"
    names = cityscapes_names(2)
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert written == sorted(n.replace(".png", f"{kind}.png") for n in names for kind in PROCESSED)
    assert [p.name for p in folder.parent.parent.glob("pseudo*")] == ["pseudo_SYNTHIA"]
    shares = []
    for name in names:
        label, full = pixels_of(folder / name), pixels_of(world / "all" / name)
        score = pixels_of(world / "all" / name.replace(".png", "_score.png")) / 255
        above, below = score > 0.9 + 1 / 255, score < 0.9 - 1 / 255
        assert above.any() and below.any()
        assert np.array_equal(label[above], full[above]) and (label[below] == 255).all()
        shares.append((label != 255).mean())
    assert f"Labelled {100 * np.mean(shares):.1f} % of the pixels of 4 images" in said["generate"].stdout
    assert re.search(r"^Labelled: 4 images in data/Cityscapes/data/leftImg8bit", said["stage 2"].stdout, re.M)


def test_synthia_is_scored_over_16_and_13_classes_never_over_19(synthia):
    world, said = synthia
    folder = world / "result" / "cityscapestwo"
    root = world / "data/Cityscapes/data/gtFine/val"
    of_cityscapes = table({label: train for train, label in enumerate(LABEL_IDS)})
    labels = [
        of_cityscapes[pixels_of(root / n.replace("leftImg8bit", "gtFine_labelIds"))]
        for n in cityscapes_names(2)
    ]
    matrix, values = iou_of_files(labels, [pixels_of(folder / n) for n in cityscapes_names(2)], 19)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["confusion"] == matrix.tolist()
    assert list(metrics["means"]) == ["mIoU", "mIoU*"] and tuple(metrics["iou"]) == NAMES
    mean_16, mean_13 = np.nanmean(values[OF_16]), np.nanmean(values[OF_13])
    assert (~np.isnan(values)).all() and mean_16 != pytest.approx(mean_13, abs=1e-6)
    assert metrics["means"]["mIoU"] == pytest.approx(mean_16, abs=1e-12) and len(OF_16) == 16
    assert metrics["means"]["mIoU*"] == pytest.approx(mean_13, abs=1e-12) and len(OF_13) == 13
    assert metrics["miou"] == metrics["means"]["mIoU"] != pytest.approx(np.nanmean(values), abs=1e-6)

    text = said["evaluate"].stdout
    rows = dict(re.findall(r"^([a-z ]*[a-z]|mIoU\*?)  +(\(?[\d.]+\)?)(?: +[\d,]+ +[\d.]+ %)?$", text, re.M))
    for index, name in enumerate(NAMES):
        shown = f"{100 * values[index]:.2f}"
        assert rows[name] == (shown if index in OF_16 else f"({shown})")
    assert rows["mIoU"] == f"{100 * mean_16:.2f}" and rows["mIoU*"] == f"{100 * mean_13:.2f}"
    assert "mIoU over 16 classes, mIoU* over 13 classes" in text


def page_of(world, tmp_path, run_main, monkeypatch):
    """The rows of the page of an evaluation, first cell -> others."""
    monkeypatch.chdir(world)
    result = run_main("report", "result/cityscapestwo", "--save", tmp_path / "page.html")
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", (tmp_path / "page.html").read_text(encoding="utf-8"), re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    cells = [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells]
    return {first: others for first, *others in reversed(cells)}  # the first table's rows win


def test_the_page_of_synthia_shows_both_means(synthia, tmp_path, run_main, monkeypatch):
    rows = page_of(synthia[0], tmp_path, run_main, monkeypatch)
    metrics = json.loads((synthia[0] / "result/cityscapestwo/metrics.json").read_text())
    for mean in ("mIoU", "mIoU*"):
        assert rows[mean][1] == f"{100 * metrics['means'][mean]:.1f}"
    with (synthia[0] / "result/cityscapestwo/metrics.csv").open(newline="") as file:
        means = {row["name"]: row["IoU 1:0.5"] for row in csv.DictReader(file) if row["kind"] == "mean"}
    assert {mean: float(value) for mean, value in means.items()} == metrics["means"]


def test_synthia_scores_of_files_need_the_source_to_be_named(synthia, tmp_path, run_main, monkeypatch):
    world = synthia[0]
    monkeypatch.chdir(world)
    flags = ("--predictions", world / "result" / "cityscapestwo", "--save", tmp_path)
    assert run_main("evaluate_cityscapes", *flags, "--source", "synthia").returncode == 0
    before = json.loads((world / "result" / "cityscapestwo" / "metrics.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text())["means"] == before["means"]
    assert run_main("evaluate_cityscapes", *flags).returncode == 0
    assert list(json.loads((tmp_path / "metrics.json").read_text())["means"]) == ["mIoU"]


def test_synthia_labels_of_another_threshold_are_found_by_stage_2(synthia, tmp_path, run_main, monkeypatch):
    shutil.copytree(synthia[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    flags = ("--restore-from", "./snapshots/one/SYNTHIA_4.pth", *PREDICTION, "--threshold", "0.5")
    result = run_main("generate_plabel_cityscapes", *flags)
    folder = "data/Cityscapes/data/pseudo_SYNTHIA_0.5/train"
    assert folder in result.stdout and len(list((tmp_path / folder).rglob("*_color.png"))) == 4
    flags = ("--source", "synthia", "--snapshot-dir", "./new", *TRAINING, "--num-steps", "1")
    result = run_main("train_ft", *flags, "--threshold", "0.5")
    assert result.returncode == 0, result.stderr


# Oxford RobotCar


def robotcar_names(split):
    """Image names, in sorted order."""
    sequences = {"train": ("2014-05-14", "2014-11-21"), "val": ("2015-02-03",)}
    return [f"{sequence}/{n:04}.png" for sequence in sequences[split] for n in range(2)]


def write_robotcar(root, size=(48, 64)):
    """RobotCar's layout: labels for `val` alone, of one, three or four channels, the id in the first."""
    rng = np.random.default_rng(6)
    for split in ("train", "val"):
        for number, name in enumerate(robotcar_names(split)):
            save_png(root / split / name, picture(rng, size))
            if split == "val":
                ids = label_blocks(rng, size, range(18))
                noise = picture(rng, size)
                extra = [noise[..., 0], noise[..., 1], noise[..., 2]][: 2 + number % 2]
                save_png(root / "anno" / name, np.stack([ids, *extra], 2))
    return root


def robotcar_label(root, ids, how):
    """A RobotCar folder with one annotated image."""
    save_png(root / "val" / "a" / "1.png", picture(np.random.default_rng(0), ids.shape))
    path = root / "anno" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    how(path, ids)
    return build_dataset("robotcar", root, split="val").train_ids("a/1.png")


@pytest.mark.parametrize(
    "how",
    [
        lambda path, ids: save_png(path, ids.astype(np.uint8)),
        lambda path, ids: save_png(path, ids.astype(np.uint8), palette=[7] * 768),
        lambda path, ids: save_png(path, channels(ids, np.uint8)),
        lambda path, ids: by_opencv(alpha=True)(path, channels(ids, np.uint8)),
        lambda path, ids: save_by_pypng(path, channels(ids)),
    ],
    ids=["grey", "palette", "RGB", "RGBA", "16-bit RGB"],
)
def test_every_robotcar_id_in_the_first_channel_reads_as_its_train_id(how, tmp_path):
    ids = np.arange(20).reshape(4, 5)
    assert np.array_equal(robotcar_label(tmp_path, ids, how), table(ROBOTCAR)[ids])
    assert sorted(set(ROBOTCAR.values())) == list(range(9))


def test_a_label_of_16_bits_that_would_lose_its_low_ones_is_refused(tmp_path):
    ids = np.arange(20).reshape(4, 5)
    with pytest.raises(DataError, match="1.png: more than 8 bits per channel; save it as PNG, RGB"):
        robotcar_label(tmp_path, ids, lambda path, ids: save_by_pypng(path, channels(ids)[..., :2]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_labels_of_few_bits_hold_their_ids(bits, tmp_path):
    ids = np.arange(8).reshape(2, 4) % 2**bits
    path = tmp_path / "few.png"
    with open(path, "wb") as file:
        png.Writer(4, 2, greyscale=True, bitdepth=bits).write(file, ids.tolist())
    for reader in (IdReader(), FirstChannelReader()):
        assert np.array_equal(reader.read(path), ids)


def test_cityscapes_ids_as_the_source_of_robotcar_read_as_the_nine(tmp_path):
    ids = np.array([*range(35), 255]).reshape(4, 9)
    name = cityscapes_names(1)[0]
    save_png(tmp_path / "leftImg8bit/train" / name, picture(np.random.default_rng(0), ids.shape))
    label_name = name.replace("leftImg8bit", "gtFine_labelIds")
    save_png(tmp_path / "gtFine/train" / label_name, ids.astype(np.uint8))
    label = build_dataset("cityscapes", tmp_path, colors=ROBOTCAR_COLORS).train_ids(name)
    assert np.array_equal(label, table(CITYSCAPES_AS_ROBOTCAR)[ids])
    assert label.flatten()[31] == 255 and sorted(set(label.flatten())) == [*range(9), 255]


def test_a_target_has_the_folders_of_the_published_pseudo_labels(tmp_path):
    pairs = {
        ("synthia", "cityscapes", 0.9): "pseudo_SYNTHIA/train",
        ("synthia", "cityscapes", 1.0): "pseudo_SYNTHIA_FULL/train",
        ("gta5", "cityscapes", 1.0): "pseudo_FULL/train",
        ("gta5", "cityscapes", 0.9): "pseudo_0.9/train",
        ("cityscapes", "robotcar", 0.9): "pseudo_train_0.9",
        ("cityscapes", "robotcar", 0.5): "pseudo_train_0.5",
    }
    for (source, target, threshold), expected in pairs.items():
        pair = adapt(find_domain(source), find_domain(target))
        assert pair.pseudo_folder(tmp_path, "train", threshold) == tmp_path / expected


# Cityscapes -> RobotCar, from the first script to the last

FROM_ROBOTCAR = ("--source", "cityscapes", "--target", "robotcar")


@pytest.fixture(scope="module")
def robotcar(tmp_path_factory):
    """The working folder after the four scripts, and what each of them said."""
    world = tmp_path_factory.mktemp("robotcar")
    write_robotcar(world / "data" / "Oxford_Robot_ICCV19")
    write_cityscapes(world / "data" / "Cityscapes" / "data", splits=["train"])
    stage1 = ("train_ms", *FROM_ROBOTCAR, "--snapshot-dir", "./snapshots/one", *TRAINING, *NETWORK)
    said = run_chain(world, {"stage 1": stage1})
    snapshot = "./snapshots/one/Cityscapes_4.pth"
    make_unsure(world / snapshot)
    stage2 = (*FROM_ROBOTCAR, "--restore-from", snapshot, "--snapshot-dir", "./snapshots/two")
    evaluate = ("evaluate_cityscapes", "--restore-from", snapshot, *PREDICTION, "--save")
    said |= run_chain(
        world,
        {
            "generate": ("generate_plabel_cityscapes", "--restore-from", snapshot, *PREDICTION),
            "stage 2": ("train_ft", *stage2, "--learning-rate", "1e-5", *TRAINING, *NETWORK, *STAGE2),
            "evaluate": (
                *("evaluate_cityscapes", "--restore-from", "./snapshots/two/Cityscapes_4.pth"),
                *PREDICTION,
            ),
            "default": (*evaluate, "./default"),
            "0.8": (*evaluate, "./0.8", "--scales", "1,0.8"),
            "1.25": (*evaluate, "./1.25", "--scales", "1,1.25"),
        },
    )
    return world, said


@pytest.mark.parametrize("stage", ["one", "two"])
def test_snapshots_of_cityscapes_to_robotcar_have_nine_classes(robotcar, stage):
    folder = robotcar[0] / "snapshots" / stage
    parts = ("", "_D1", "_D2") if stage == "one" else ("",)
    expected = [f"Cityscapes_{i}{suffix}.pth" for i in (2, 4) for suffix in parts]
    assert sorted(path.name for path in folder.glob("*.pth")) == sorted(expected)
    options = yaml.safe_load((folder / "opts.yaml").read_text())
    assert {name: tuple(color) for name, color in options["classes"].items()} == ROBOTCAR_COLORS
    assert list(options["classes"]) == list(ROBOTCAR_COLORS) and options["num_classes"] == 9
    state = torch.load(folder / "Cityscapes_4.pth", weights_only=True)
    assert [len(state[f"layer{n}.head.1.weight"]) for n in (5, 6)] == [9, 9]
    assert re.search(
        r"Target: +4 images in data/Oxford_Robot_ICCV19/train \(no labels\)", robotcar[1]["stage 1"].stdout
    )


def test_pseudo_labels_of_robotcar_lie_beside_train_and_are_sure_to_0_9(robotcar):
    world, said = robotcar
    root = world / "data" / "Oxford_Robot_ICCV19"
    assert "cityscapes -> robotcar, 9 classes" in said["generate"].stdout
    assert sorted(p.name for p in root.iterdir()) == ["anno", "pseudo_train_0.9", "train", "val"]
    folder = root / "pseudo_train_0.9"
    names = robotcar_names("train")
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert written == sorted(n.replace(".png", f"{kind}.png") for n in names for kind in PROCESSED)
    values = np.concatenate([np.unique(pixels_of(folder / name)) for name in names])
    assert set(values) <= {*range(9), 255} and 255 in values and len(set(values)) > 1
    assert "Labelled: 4 images in data/Oxford_Robot_ICCV19/train" in said["stage 2"].stdout


def test_robotcar_is_evaluated_at_scales_1_and_0_8(robotcar):
    world = robotcar[0]
    shown = {}
    for folder in ("default", "0.8", "1.25"):
        scores = [pixels_of(world / folder / n.replace(".png", "_score.png")) for n in robotcar_names("val")]
        shown[folder] = np.stack(scores)
    assert np.array_equal(shown["default"], shown["0.8"])
    assert not np.array_equal(shown["default"], shown["1.25"])


def test_robotcar_pseudo_labels_are_made_at_scales_1_and_1_25(robotcar, tmp_path, run_main, monkeypatch):
    world = robotcar[0]
    monkeypatch.chdir(world)
    flags = ("--restore-from", "./snapshots/one/Cityscapes_4.pth", *PREDICTION)
    agreement = {}
    for scales in ("1,1.25", "1,0.8"):
        folder = tmp_path / scales
        run_main("generate_plabel_cityscapes", *flags, "--scales", scales, "--save", folder)
        agreement[scales] = [
            np.array_equal(
                pixels_of(folder / name),
                pixels_of(world / "data/Oxford_Robot_ICCV19/pseudo_train_0.9" / name),
            )
            for name in robotcar_names("train")
        ]
    assert all(agreement["1,1.25"]) and not all(agreement["1,0.8"])


def test_robotcar_is_scored_over_its_nine_classes_in_its_own_colours(robotcar):
    world, said = robotcar
    folder, anno = world / "result" / "cityscapestwo", world / "data" / "Oxford_Robot_ICCV19" / "anno"
    names = robotcar_names("val")
    labels = [table(ROBOTCAR)[pixels_of(anno / name)[..., 0]] for name in names]
    predictions = [pixels_of(folder / name) for name in names]
    matrix, values = iou_of_files(labels, predictions, 9)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["confusion"] == matrix.tolist() and list(metrics["iou"]) == list(ROBOTCAR_COLORS)
    assert metrics["means"] == {"mIoU": pytest.approx(np.nanmean(values), abs=1e-12)}
    assert f"{100 * np.nanmean(values):.2f}" in re.search(r"^mIoU +(.*)$", said["evaluate"].stdout, re.M)[1]
    colors = np.array(list(ROBOTCAR_COLORS.values()))
    for name, prediction in zip(names, predictions, strict=True):
        assert np.array_equal(pixels_of(folder / name.replace(".png", "_color.png")), colors[prediction])
    assert len(np.unique(np.concatenate(predictions))) > 2


def test_the_page_of_robotcar_shows_its_nine_classes(robotcar, tmp_path, run_main, monkeypatch):
    rows = page_of(robotcar[0], tmp_path, run_main, monkeypatch)
    metrics = json.loads((robotcar[0] / "result/cityscapestwo/metrics.json").read_text())
    for name, value in metrics["iou"].items():
        assert rows[name][1] == ("–" if value is None else f"{100 * value:.1f}")


# Folders that the published code wrote


def published(folder, name="GTA5_25000.pth", outputs=None, **flags):
    """opts.yaml as the released code wrote it, and the last layer of a network; the snapshot's path."""
    options = {
        "model": "DeepLab",
        "target": "cityscapes",
        "batch_size": 2,
        "iter_size": 1,
        "num_workers": 2,
        "data_dir": "./data/GTA5",
        "data_list": "./dataset/gta5_list/train.txt",
        "ignore_label": 255,
        "input_size": "1280,720",
        "data_dir_target": "./data/Cityscapes/data",
        "data_list_target": "./dataset/cityscapes_list/train.txt",
        "crop_size": (512, 1024),
        "learning_rate": 0.0002,
        "num_classes": 19,
        "restore_from": "http://vllab.ucmerced.edu/ytsai/CVPR18/DeepLab_resnet_pretrained_init-f81d91e8.pth",
        "snapshot_dir": "./snapshots/SE_GN_batchsize2_1024x512_pp_ms_me0_classbalance7_kl0.1",
        "norm_style": "gn",
        "use_se": True,
        "train_bn": False,
        "droprate": 0.1,
        "gpu_ids": "0,1",
        "set": "train",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "opts.yaml").write_text(yaml.dump(options | flags))
    outputs = outputs or flags.get("num_classes", 19)
    torch.save({"module.layer6.head.1.weight": torch.zeros(outputs, 512, 1, 1)}, folder / name)
    return folder / name


def recognised(run_main, snapshot, *flags):
    """What evaluation takes the snapshot for, said before it looks for the data."""
    result = run_main("evaluate_cityscapes", "--restore-from", snapshot, "--cpu", *flags)
    one_line_error(result, "no such folder")
    return re.search(r"^(\w+ -> \w+, \d+ classes)$", result.stdout, re.M)[1]


STAGE1_OF_SYNTHIA = "./snapshots/SY_SE_GN_batchsize2_1024x512/GTA5_25000.pth"
FROM_SYNTHIA = "synthia -> cityscapes, 19 classes"
FROM_GTA5 = "gta5 -> cityscapes, 19 classes"
TO_ROBOTCAR = "cityscapes -> robotcar, 9 classes"
IN_CITYSCAPES = {"data_dir": "./data/Cityscapes/data"}

PUBLISHED = {
    "GTA5": ("stage1", {}, FROM_GTA5),
    "GTA5, Stage II": ("1280x640_restore_ft_GN", IN_CITYSCAPES, FROM_GTA5),
    "SYNTHIA by its data": ("stage1", {"data_dir": "./data/synthia"}, FROM_SYNTHIA),
    "SYNTHIA by its data, in capitals": ("stage1", {"data_dir": "/mnt/RAND_SYNTHIA/RGB"}, FROM_SYNTHIA),
    "SYNTHIA by its list": ("stage1", {"data_list": "./dataset/synthia_list/train.txt"}, FROM_SYNTHIA),
    "SYNTHIA by its folder": ("SY_1280x640_restore_ft", IN_CITYSCAPES, FROM_SYNTHIA),
    "SYNTHIA within its folder's name": ("1280x640_SY_restore_ft", IN_CITYSCAPES, FROM_SYNTHIA),
    "SYNTHIA, renamed": ("best", IN_CITYSCAPES | {"snapshot_dir": "./snapshots/SY_restore"}, FROM_SYNTHIA),
    "SYNTHIA by Stage I": ("stage2", IN_CITYSCAPES | {"restore_from": STAGE1_OF_SYNTHIA}, FROM_SYNTHIA),
    "RobotCar": ("stage1", {"num_classes": 9, "data_dir": "./data/Cityscapes/data"}, TO_ROBOTCAR),
    "RobotCar, Stage II": (
        "RB_restore_ft",
        {"num_classes": 9, "data_dir": "./data/Oxford_Robot_ICCV19"},
        TO_ROBOTCAR,
    ),
    "a user called sy": (
        "home/sy/snapshots/SE_GN",
        {"data_dir": "/home/sy/data/GTA5", "snapshot_dir": "/home/sy/snapshots/SE_GN"},
        FROM_GTA5,
    ),
    "weights of a user called sy": ("best", {"restore_from": "/home/sy/init.pth"}, FROM_GTA5),
    "a snapshot right in that home": ("home/sy", {"snapshot_dir": "/home/sy"}, FROM_GTA5),
    "a folder called SYNC": ("SYNC_BN_SE_GN", {"snapshot_dir": "./snapshots/SYNC_BN_SE_GN"}, FROM_GTA5),
    "easy and sync within words": ("easy_async_BN", {"restore_from": "./EASY/MySYNC/a.pth"}, FROM_GTA5),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_a_published_folder_tells_what_it_was_trained_for(case, tmp_path, monkeypatch, run_main):
    folder, flags, expected = PUBLISHED[case]
    monkeypatch.chdir(tmp_path)
    assert recognised(run_main, published(tmp_path / folder, **flags)) == expected


@pytest.mark.parametrize(
    ("options", "flags", "expected"),
    [
        ({}, ("--source", "synthia"), FROM_SYNTHIA),
        ({"data_dir": "./data/synthia"}, ("--source", "gta5"), FROM_GTA5),
        ({"num_classes": 9}, ("--source", "gta5"), "gta5 -> robotcar, 9 classes"),
    ],
)
def test_flags_overrule_what_a_folder_tells(options, flags, expected, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    assert recognised(run_main, published(tmp_path / "stage1", **options), *flags) == expected


def test_a_network_of_nine_classes_is_robotcars_whatever_its_flags_say(tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    snapshot = published(tmp_path / "RB_restore_ft", outputs=9)
    assert recognised(run_main, snapshot) == "cityscapes -> robotcar, 9 classes"


def test_nine_classes_cannot_be_scored_as_19(tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    snapshot = published(tmp_path / "stage1", num_classes=9)
    result = run_main("evaluate_cityscapes", "--restore-from", snapshot, "--target", "cityscapes", "--cpu")
    one_line_error(result, "--target cityscapes", "19 classes", "has 9", snapshot)


def test_a_published_synthia_folder_is_used_from_pseudo_labels_to_scores(
    synthia, tmp_path, monkeypatch, run_main
):
    shutil.copytree(synthia[0] / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "Cityscapes" / "data" / "pseudo_SYNTHIA")
    monkeypatch.chdir(tmp_path)
    snapshot = published(tmp_path / "SY_SE_GN", arch="mini", **IN_CITYSCAPES)
    shutil.copy(synthia[0] / "snapshots" / "one" / "SYNTHIA_4.pth", snapshot)
    result = run_main("generate_plabel_cityscapes", "--restore-from", snapshot, *PREDICTION)
    assert result.returncode == 0 and "data/Cityscapes/data/pseudo_SYNTHIA/train" in result.stdout
    for name in cityscapes_names(2):
        written = [
            root / "data/Cityscapes/data/pseudo_SYNTHIA/train" / name for root in (tmp_path, synthia[0])
        ]
        assert np.array_equal(*map(pixels_of, written))
    result = run_main("evaluate_cityscapes", "--restore-from", snapshot, *PREDICTION)
    assert "mIoU over 16 classes, mIoU* over 13 classes" in result.stdout
    metrics = json.loads((tmp_path / "result" / "cityscapesSY_SE_GN" / "metrics.json").read_text())
    assert list(metrics["means"]) == ["mIoU", "mIoU*"]
