"""Predictions in label ids, as Cityscapes' test server and its official script read them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from dataset.own import read_domain
from tests.bad_input.world import save_snapshot
from tests.conftest import (
    LABEL_IDS,
    PREDICTION,
    TRAINING,
    cityscapes_names,
    describe,
    files_of,
    label_blocks,
    one_line_error,
    picture,
    pixels_of,
    run_chain,
    save_png,
    write_cityscapes,
)

SNAPSHOT = "snapshots/old/GTA5_4.pth"
FLAGS = ("--restore-from", SNAPSHOT, *PREDICTION)
ONE_PASS = ("--restore-from", SNAPSHOT, "--input-size", "72,40", "--cpu")
NAMES = cityscapes_names(2)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A world whose Cityscapes images were predicted by every script in label ids, and in train ids."""
    folder = tmp_path_factory.mktemp("label_ids")
    write_cityscapes(folder / "data/Cityscapes/data", splits=("val", "test"))
    save_snapshot(folder / SNAPSHOT)
    images = "data/Cityscapes/data/leftImg8bit/val"
    label_ids = ("--label-ids", "--save")
    run_chain(
        folder,
        {
            "train ids": ("evaluate_cityscapes", *FLAGS, "--save", "train_ids"),
            "evaluate": ("evaluate_cityscapes", *FLAGS, *label_ids, "evaluated"),
            "generate": ("generate_plabel_cityscapes", *FLAGS, "--set", "test", *label_ids, "generated"),
            "reference": ("generate_plabel_cityscapes", *FLAGS, "--set", "test", "--save", "pseudo"),
            "segment": ("segment", images, *ONE_PASS, *label_ids, "segmented"),
        },
    )
    return folder


@pytest.mark.parametrize(
    ("folder", "reference"),
    [("evaluated", "train_ids"), ("generated", "pseudo"), ("segmented", "train_ids")],
)
def test_every_script_writes_one_file_per_image_with_the_label_id_of_each_train_id(
    folder, reference, predicted
):
    written = [str(path.relative_to(predicted / folder)) for path in (predicted / folder).rglob("*.png")]
    assert sorted(written) == NAMES
    for name in NAMES:
        train_ids = pixels_of(predicted / reference / name)
        assert np.array_equal(pixels_of(predicted / folder / name), np.array(LABEL_IDS)[train_ids])


def test_the_official_script_finds_the_files_and_gives_the_score_of_the_evaluation(predicted):
    options = SimpleNamespace(**vars(official.args) | {"predictionPath": str(predicted / "evaluated")})
    options.evalInstLevelScore = options.JSONOutput = False
    options.quiet = True
    labels = sorted((predicted / "data/Cityscapes/data/gtFine/val").rglob("*_labelIds.png"))
    files = [official.getPrediction(options, str(label)) for label in labels]
    result = official.evaluateImgLists(files, list(map(str, labels)), options)
    metrics = json.loads((predicted / "evaluated/metrics.json").read_text())
    assert metrics["miou"] == pytest.approx(result["averageScoreClasses"], abs=1e-12)
    assert metrics["miou"] == json.loads((predicted / "train_ids/metrics.json").read_text())["miou"]


def test_stage_2_refuses_label_ids_as_pseudo_labels(predicted, monkeypatch, run_main):
    monkeypatch.chdir(predicted)
    flags = ("--set", "test", "--pseudo-dir", "generated", "--snapshot-dir", "stage2")
    one_line_error(run_main("train_ft", *TRAINING, *flags), "generated", "train ids", "--label-ids")


def test_own_data_get_the_first_id_of_each_class_and_a_class_without_one_is_named(
    tmp_path, monkeypatch, run_main
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        save_png(tmp_path / f"photos/images/{name}.png", picture(rng, (48, 96)))
        save_png(
            tmp_path / f"photos/labels/{name}.png", label_blocks(rng, (48, 96), (9, 3)).astype(np.uint16)
        )
    describe(tmp_path / "photos/dataset.yaml", classes={"car": {"ids": [3, 700]}, "road": {"ids": [900, 9]}})
    describe(
        tmp_path / "game/dataset.yaml", classes={n: {"ids": i} for i, n in enumerate(("road", "car", "sky"))}
    )
    save_snapshot(tmp_path / SNAPSHOT, read_domain(tmp_path / "game").colors, source="game")
    domains = ("--source", "game", "--target", "photos")
    flags = (*FLAGS, *domains)
    said = run_main("generate_plabel_cityscapes", *flags, "--label-ids", "--save", "ids")
    assert said.returncode == 0 and "Classes without a label id in photos become 255: sky." in said.stdout
    assert run_main("generate_plabel_cityscapes", *flags, "--save", "train_ids").returncode == 0
    for name in ("a.png", "b.png"):
        expected = np.array([900, 3, 255])[pixels_of(tmp_path / "train_ids" / name)]
        assert np.array_equal(pixels_of(tmp_path / "ids" / name), expected)

    colors = {"road": {"color": [1, 2, 3]}, "car": {"color": [4, 5, 6]}}
    for name in ("a", "b"):
        drawn = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[label_blocks(rng, (48, 96), (0, 1))]
        save_png(tmp_path / f"photos/labels/{name}.png", drawn)
    describe(tmp_path / "photos/dataset.yaml", **{"label-format": "colors", "classes": colors})
    before = files_of(tmp_path)
    refused = run_main("evaluate_cityscapes", *flags, "--label-ids", "--save", "out")
    one_line_error(refused, "--label-ids", "photos", "colours")
    assert files_of(tmp_path) == before
