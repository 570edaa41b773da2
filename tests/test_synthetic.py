"""Files of the synthetic data, checked against the layouts and label tables of the published data sets."""

import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image

from synthetic import make_image, make_synthetic_data
from synthetic.ids import ROBOTCAR_IDS, SYNTHIA_IDS
from tests.conftest import LABEL_IDS, ROOT, TRAIN_IDS, files_of, one_line_error

SOURCE, TARGET, VAL = range(3)
COUNTS = {"source_images": 3, "target_images": 4, "val_images": 2}
SEED = 5
GAME, CITYSCAPES, ROBOTCAR = (320, 180), (320, 160), (240, 180)  # width, height

# Copied from the published tables, not imported, so that a wrong table is noticed.
SYNTHIA_TRAIN_IDS = {
    **{3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9},
    **{1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18},
}
CITYSCAPES_TO_ROBOTCAR = {
    **{23: 0, 24: 1, 25: 1, 32: 2, 33: 2, 26: 3, 27: 3, 28: 3},
    **{20: 4, 19: 5, 11: 6, 8: 7, 7: 8},
}
ROBOTCAR_TRAIN_IDS = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 10: 7, 11: 8, 12: 8, 13: 8, 14: 8, 17: 8}

GTA5_NAMES = ["00001.png", "00002.png", "00003.png"]
SYNTHIA_NAMES = ["0000000.png", "0000001.png", "0000002.png"]
TRAIN_NAMES = ["eastport_000000", "millbrook_000000", "northhaven_000000", "eastport_000001"]
ROBOTCAR_COUNTS = {
    f"Oxford_Robot_ICCV19/{folder}": n for folder, n in (("train", 4), ("val", 2), ("anno", 2))
}
VAL_NAMES = ["lakeside_000000", "oldbridge_000000"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Callable[[str], Path]:
    """Folder of a benchmark's files, drawn on first use."""

    @cache
    def draw(benchmark: str) -> Path:
        root = tmp_path_factory.mktemp(benchmark)
        make_synthetic_data(root, benchmark=benchmark, **COUNTS, seed=SEED, workers=1)
        return root

    return draw


@pytest.fixture(scope="module")
def synthia(drawn) -> Path:
    return drawn("synthia")


@pytest.fixture(scope="module")
def robotcar(drawn) -> Path:
    return drawn("robotcar")


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def mapped(ids: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Ids through a table, 255 where it has no entry."""
    lookup = np.full(int(ids.max()) + 1, 255)
    for label, train_id in table.items():
        if label < len(lookup):
            lookup[label] = train_id
    return lookup[ids]


def cityscapes_pairs(root: Path, part: str, names: list[str]) -> list[tuple[Path, Path]]:
    """Paths of images and label files in Cityscapes' layout."""
    data, pairs = root / "Cityscapes" / "data", []
    for name in names:
        place = f"{part}/{name.split('_')[0]}/{name}_000019"
        labels = data / f"gtFine/{place}_gtFine_labelIds.png"
        pairs.append((data / f"leftImg8bit/{place}_leftImg8bit.png", labels))
    return pairs


def cityscapes_counts(**parts: int) -> dict[str, int]:
    """Folders of Cityscapes' layout and their numbers of files."""
    kinds = ("leftImg8bit", "gtFine")
    return {f"Cityscapes/data/{kind}/{part}": n for kind in kinds for part, n in parts.items()}


def read_16_bit(path: Path) -> np.ndarray:
    """Pixels (height, width, 3), uint16; Pillow would reduce them to 8 bits."""
    width, height, rows, _ = png.Reader(filename=str(path)).read()
    return np.array([np.array(row, np.uint16) for row in rows]).reshape(height, width, 3)


def assert_scenes(pairs: list[tuple[Path, Path]], split: int, size: tuple[int, int]) -> None:
    """The files hold the images and Cityscapes ids of the split's scenes, in order."""
    for index, (image, labels) in enumerate(pairs):
        scene, ids = make_image(SEED, split, index, size)
        np.testing.assert_array_equal(pixels_of(image), scene)
        np.testing.assert_array_equal(pixels_of(labels), ids)


@pytest.mark.parametrize(
    ("benchmark", "folders"),
    [
        ("gta5", {"GTA5/images": 3, "GTA5/labels": 3, **cityscapes_counts(train=4, val=2)}),
        ("synthia", {"synthia/RGB": 3, "synthia/GT/LABELS": 3, **cityscapes_counts(train=4, val=2)}),
        ("robotcar", {**cityscapes_counts(train=3), **ROBOTCAR_COUNTS}),
    ],
)
def test_benchmark_has_its_folders_and_no_other_files(drawn, benchmark, folders):
    root = drawn(benchmark)
    assert {folder: len(files_of(root / folder)) for folder in folders} == folders
    assert len(files_of(root)) == sum(folders.values())


def test_number_of_workers_changes_no_file(robotcar, tmp_path):
    root = robotcar
    make_synthetic_data(tmp_path, benchmark="robotcar", **COUNTS, seed=SEED, workers=2)
    alone = {path.relative_to(root): content for path, content in files_of(root).items()}
    assert {path.relative_to(tmp_path): content for path, content in files_of(tmp_path).items()} == alone


def test_gta5_is_the_benchmark_where_none_is_named(drawn, tmp_path):
    make_synthetic_data(tmp_path, source_images=1, target_images=0, val_images=1, seed=SEED, workers=1)
    files = files_of(tmp_path)
    assert len(files) == 4
    assert all(
        (drawn("gta5") / path.relative_to(tmp_path)).read_bytes() == content
        for path, content in files.items()
    )


def test_gta5_files_hold_scenes_with_cityscapes_ids_shown_in_colors(drawn):
    gta5 = drawn("gta5")
    pairs = [(gta5 / "GTA5/images" / name, gta5 / "GTA5/labels" / name) for name in GTA5_NAMES]
    assert_scenes(pairs, SOURCE, GAME)
    with Image.open(pairs[0][1]) as labels:
        assert labels.mode == "P"
        palette = np.reshape(labels.getpalette(), (-1, 3))
    assert palette[7].tolist() == [128, 64, 128]  # road
    assert palette[33].tolist() == [119, 11, 32]  # bicycle
    assert not palette[[i for i in range(len(palette)) if i not in LABEL_IDS]].any()


@pytest.mark.parametrize("benchmark", ["gta5", "synthia"])
def test_cityscapes_as_target_holds_camera_scenes(drawn, benchmark):
    root = drawn(benchmark)
    assert_scenes(cityscapes_pairs(root, "train", TRAIN_NAMES), TARGET, CITYSCAPES)
    assert_scenes(cityscapes_pairs(root, "val", VAL_NAMES), VAL, CITYSCAPES)


def test_synthia_labels_are_rgb_of_16_bits(synthia):
    for name in SYNTHIA_NAMES:
        header = (synthia / "synthia/GT/LABELS" / name).read_bytes()[:26]
        assert header[:8] == b"\x89PNG\r\n\x1a\n" and header[12:16] == b"IHDR"
        assert struct.unpack(">IIBB", header[16:26]) == (*GAME, 16, 2)  # bits, color type RGB


def test_synthia_red_reads_as_the_classes_of_the_scene(synthia):
    seen = set()
    for index, name in enumerate(SYNTHIA_NAMES):
        image, ids = make_image(SEED, SOURCE, index, GAME)
        np.testing.assert_array_equal(pixels_of(synthia / "synthia/RGB" / name), image)
        red = read_16_bit(synthia / "synthia/GT/LABELS" / name)[..., 0]
        np.testing.assert_array_equal(mapped(red, SYNTHIA_TRAIN_IDS), mapped(ids, TRAIN_IDS))
        assert set(np.unique(red)) <= {0, *SYNTHIA_TRAIN_IDS}
        seen |= set(np.unique(red))
    assert len(seen - {0}) >= 14


def test_synthia_green_holds_instances_beyond_8_bits(synthia):
    labels = read_16_bit(synthia / "synthia/GT/LABELS" / SYNTHIA_NAMES[0])
    assert labels[..., 1].max() > 255
    assert len(np.unique(labels[..., 1])) > 255
    assert not labels[..., 2].any()


def test_every_class_has_its_id_in_synthia_and_robotcar():
    """Converts every id, because rare classes do not occur in the few scenes here."""
    assert {label: SYNTHIA_TRAIN_IDS[own] for label, own in SYNTHIA_IDS.items()} == TRAIN_IDS
    assert {label: ROBOTCAR_TRAIN_IDS[own] for label, own in ROBOTCAR_IDS.items()} == CITYSCAPES_TO_ROBOTCAR


def test_robotcar_source_is_the_game_in_cityscapes_train(robotcar):
    assert_scenes(cityscapes_pairs(robotcar, "train", TRAIN_NAMES[:3]), SOURCE, GAME)


def test_robotcar_train_has_sequences_of_4_to_3_images_and_no_labels(robotcar):
    train = robotcar / "Oxford_Robot_ICCV19/train"
    files = sorted(train.glob("*/*.png"))
    assert len(files) == COUNTS["target_images"] == len(files_of(train))
    assert len({file.parent for file in files}) == 3
    scenes = {make_image(SEED, TARGET, i, ROBOTCAR)[0].tobytes() for i in range(len(files))}
    assert {pixels_of(file).tobytes() for file in files} == scenes
    assert {Image.open(file).size for file in files} == {ROBOTCAR}


def test_robotcar_annotations_hold_ids_of_the_scene_in_their_first_channel(robotcar):
    images, annotations = (sorted((robotcar / "Oxford_Robot_ICCV19" / f).iterdir()) for f in ("val", "anno"))
    assert [path.name for path in images] == [path.name for path in annotations]
    for index, (image, annotation) in enumerate(zip(images, annotations, strict=True)):
        scene, ids = make_image(SEED, VAL, index, ROBOTCAR)
        np.testing.assert_array_equal(pixels_of(image), scene)
        channels = pixels_of(annotation)
        assert channels.shape == (180, 240, 3) and channels.dtype == np.uint8
        assert set(np.unique(channels[..., 0])) <= {0, *ROBOTCAR_TRAIN_IDS}
        classes = mapped(channels[..., 0], ROBOTCAR_TRAIN_IDS)
        np.testing.assert_array_equal(classes, mapped(ids, CITYSCAPES_TO_ROBOTCAR))
        assert len(set(np.unique(classes)) - {255}) >= 6
        assert all((channels[..., 0] != channels[..., c]).mean() > 0.5 for c in (1, 2))


def test_command_creates_a_complete_folder_and_never_overwrites_one(tmp_path):
    out = tmp_path / "drawn"
    few = ("--benchmark", "synthia", "--source-images", "1", "--target-images", "1", "--val-images", "1")
    command = [sys.executable, "-m", "synthetic", str(out), *few]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]
    assert sorted(path.name for path in out.iterdir()) == ["Cityscapes", "synthia"]
    one_line_error(second, out)
    wrong = subprocess.run([*command, "--benchmark", "kitti"], cwd=ROOT, capture_output=True, text=True)
    one_line_error(wrong, "--benchmark", "kitti", "synthia")
