"""Files of predictions: what other programs read from them."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dataset import png
from dataset.png import compress, png_file
from utils.errors import UserError
from utils.inference import Prediction
from utils.pictures import HEAT_TABLE, PredictionWriter, heat_levels

PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
SIZE = (37, 53)


@pytest.fixture(params=["ISA-L", "zlib"])
def packer(request, monkeypatch):
    """What compresses."""
    if request.param == "zlib":
        monkeypatch.setattr(png, "isal_zlib", None)
    elif png.isal_zlib is None:
        pytest.skip("isal is not installed")


@pytest.mark.usefixtures("packer")
@pytest.mark.parametrize("size", [SIZE, (1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("values", [1, 19, 256])
def test_png_files_hold_the_pixels_for_pillow_and_opencv(size, values, tmp_path):
    pixels = np.random.default_rng(1).integers(0, values, size).astype(np.uint8)
    data, path = compress(pixels), tmp_path / "a.png"
    path.write_bytes(png_file(size, data))
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.mode == "L" and np.array_equal(image, pixels)
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), pixels)
    path.write_bytes(png_file(size, data, PALETTE))
    with Image.open(path) as image:
        assert image.mode == "P" and np.array_equal(image, pixels)
        assert np.array_equal(image.convert("RGB"), PALETTE[pixels])
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], PALETTE[pixels])


def drawn(number):
    generator = torch.Generator().manual_seed(number)
    label = torch.randint(0, 19, SIZE, generator=generator).to(torch.uint8)
    return Prediction(label, torch.rand(SIZE, generator=generator), torch.rand(SIZE, generator=generator))


@pytest.mark.parametrize("scores", [False, True])
def test_a_prediction_is_written_as_label_colours_heat_map_and_score(scores, tmp_path):
    names = [f"town/{number}.jpg" for number in range(40)]  # more than may wait for a writer
    with PredictionWriter(tmp_path, PALETTE, scores) as writer:
        for number, name in enumerate(names):
            writer.write(name, drawn(number))
    kinds = {"", "_color", "_heatmap"} | ({"_score"} if scores else set())
    assert len(list(tmp_path.rglob("*"))) == 1 + len(kinds) * len(names)
    for number in range(40):
        label, score, uncertainty = (maps.numpy() for maps in drawn(number))
        shown = {kind: Image.open(tmp_path / "town" / f"{number}{kind}.png") for kind in kinds}
        assert np.array_equal(shown[""], label)
        assert np.array_equal(shown["_color"].convert("RGB"), PALETTE[label])
        heat = HEAT_TABLE[heat_levels(torch.from_numpy(uncertainty)).numpy()]
        assert np.array_equal(shown["_heatmap"].convert("RGB"), heat)
        if scores:
            assert np.array_equal(shown["_score"], (255 * score).round())


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "town").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"), PredictionWriter(tmp_path, PALETTE, False) as writer:
        writer.write("town/a.png", drawn(0))


@pytest.mark.parametrize("kind", ["score", "uncertainty"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_image_and_are_not_written(value, kind, tmp_path):
    good, bad = drawn(0), drawn(1)
    getattr(bad, kind)[3, 5] = value
    with (
        pytest.raises(UserError, match="town/b: the network's scores or uncertainties are not finite"),
        PredictionWriter(tmp_path, PALETTE, True) as writer,
    ):
        writer.write("town/a.png", good)
        writer.write("town/b.png", bad)
    assert {path.stem.split("_")[0] for path in tmp_path.rglob("*.png")} == {"a"}


def test_heat_map_shows_log_of_1_plus_10_kl_over_its_maximum():
    kl = torch.tensor([[0.0, 0.05], [0.3, 2.0]])
    steps = (255 * np.log(1 + 10 * kl.numpy()) / np.log(21)).astype(int)
    assert heat_levels(kl).dtype == torch.uint8 and np.array_equal(heat_levels(kl), steps)
    assert kl[1, 1] == 2, "what it is given stays"
    brightness = HEAT_TABLE @ (0.299, 0.587, 0.114)
    assert np.all(np.diff(brightness) >= 0) and np.ptp(brightness) > 150, "more uncertain is brighter"


def test_heat_map_of_classifiers_that_agree_everywhere_is_dark():
    assert not heat_levels(torch.zeros(4, 6)).any()
