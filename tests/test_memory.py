"""Prediction in batches that fit the memory at hand, and at full size tile by tile."""

import pytest
import torch
import torch.nn.functional as F

from engine import restore
from engine.restore import rebatch
from tests.conftest import PREDICTION, files_of
from tests.test_scripts import finished, trained  # noqa: F401  (fixtures)
from utils import memory, upsampling
from utils.memory import images_a_pass
from utils.upsampling import maximum_of_sum


@pytest.mark.parametrize("sureness", [0.1, 5])
@pytest.mark.parametrize("tile, pairs", [((16, 32), 1024), ((4, 3), 5), ((100, 100), 1)])
@pytest.mark.parametrize("sizes", [[(9, 13), (11, 16)], [(9, 13)], [(1, 1), (5, 3)], [(80, 70), (3, 4)]])
def test_tiles_hold_what_the_whole_does(sizes, tile, pairs, sureness, monkeypatch):
    monkeypatch.setattr(upsampling, "TILE", tile)
    monkeypatch.setattr(upsampling, "PAIRS", pairs)
    torch.manual_seed(0)
    maps = [(sureness * torch.randn(1, 7, *size, dtype=torch.float64)).softmax(1) for size in sizes]
    size = (70, 61)
    total = sum(F.interpolate(m, size, mode="bilinear", align_corners=True) for m in maps)[0]
    threads = torch.get_num_threads()
    value, index = maximum_of_sum(maps, size)
    assert (value - total.amax(0)).abs().max() < 1e-14
    assert index.dtype == torch.uint8 and torch.equal(index.long(), total.argmax(0))
    assert torch.get_num_threads() == threads


def test_of_equal_channels_the_first_is_taken():
    maps = torch.zeros(1, 5, 4, 4)
    maps[:, 2:4] = 1
    value, index = maximum_of_sum([maps, maps], (9, 9))
    assert (index == 2).all() and (value == 2).all()


PIXELS = 200 * 100
AN_IMAGE = PIXELS * memory.BYTES_A_PIXEL


@pytest.mark.parametrize("images, expected", [(0, 1), (0.9, 1), (3.5, 3), (12, 12), (100, 12)])
def test_the_batch_fits_the_memory_and_a_smaller_one_is_said(images, expected, monkeypatch, caplog):
    monkeypatch.setattr(memory, "free_memory", lambda _: int(images * AN_IMAGE))
    caplog.set_level("INFO")
    assert images_a_pass(12, PIXELS, torch.device("cuda")) == expected
    assert len(caplog.messages) == (expected < 12)
    assert all("--batchsize 12: " in m and f"{expected} images a pass" in m for m in caplog.messages)


def test_where_torch_does_not_say_the_batch_stays():
    assert memory.free_memory(torch.device("mps")) is None
    assert images_a_pass(12, PIXELS, torch.device("mps")) == 12


def test_a_cpu_takes_one_image(caplog):
    caplog.set_level("INFO")
    assert images_a_pass(12, PIXELS, torch.device("cpu")) == 1 and not caplog.messages


def test_single_images_are_put_together_in_order():
    single = [
        {
            "images": [torch.full((1, 2, 3, 3), n, dtype=torch.uint8)] * 2,
            "label": [n],
            "size": [n],
            "name": [n],
        }
        for n in range(5)
    ]
    whole = list(rebatch(single, 2, pinned=False))
    assert [batch["name"] for batch in whole] == [[0, 1], [2, 3], [4]]
    for batch in whole:
        assert batch["label"] == batch["size"] == batch["name"]
        for scale in batch["images"]:
            assert scale.shape[1:] == (2, 3, 3) and scale[:, 0, 0, 0].tolist() == batch["name"]


def test_the_batch_changes_no_file(trained, run_main, monkeypatch):  # noqa: F811
    flags = ("--restore-from", "./snapshots/stage1/GTA5_4.pth", *PREDICTION)
    for name, count in (("single", 1), ("several", 2)):
        monkeypatch.setattr(restore, "images_a_pass", lambda *_, count=count: count)
        assert run_main("generate_plabel_cityscapes", *flags, "--save", name).returncode == 0
        (trained / name / "run.yaml").unlink()  # of times and commands
    single, several = (files_of(trained / name) for name in ("single", "several"))
    assert len(single) == len(several) == 12
    same = [
        content == several[trained / "several" / path.relative_to(trained / "single")]
        for path, content in single.items()
    ]
    assert sum(same) >= 8  # rounding may differ
