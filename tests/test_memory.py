"""Prediction in batches that fit the memory at hand, and at full size tile by tile."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import PREDICTION, files_of
from tests.test_scripts import finished, trained  # noqa: F401  (fixtures)
from utils import memory, restore, upsampling
from utils.distributed import Processes
from utils.restore import fitting_batch, together
from utils.upsampling import maximum_of_sum

CPU = torch.device("cpu")


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


IMAGES = SimpleNamespace(sizes=[(100, 100), (200, 100)])
AN_IMAGE = 200 * 100 * restore.BYTES_A_PIXEL


@pytest.mark.parametrize("images, expected", [(0, 1), (0.9, 1), (3.5, 3), (12, 12), (100, 12)])
def test_the_batch_fits_the_memory_and_a_smaller_one_is_said(images, expected, monkeypatch, caplog):
    monkeypatch.setattr(restore, "free_memory", lambda _: int(images * AN_IMAGE))
    caplog.set_level("INFO")
    assert fitting_batch(12, IMAGES, CPU) == expected
    assert len(caplog.messages) == (expected < 12)
    assert all("--batchsize 12: " in m and f"{expected} images a pass" in m for m in caplog.messages)


def test_processes_on_the_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(restore, "free_memory", lambda _: 8 * AN_IMAGE)
    assert fitting_batch(12, IMAGES, CPU, Processes(1, 4, 1, 4)) == 2


def test_where_the_system_does_not_say_the_batch_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory(CPU) is None and fitting_batch(12, IMAGES, CPU) == 12


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    for name, content in (("memory.max", "max"), ("memory.current", "900000"), ("memory.stat", "anon 1\n")):
        (tmp_path / name).write_text(content)
    assert memory.free_memory(CPU) == 4000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory.free_memory(CPU) == 150000


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
    whole = list(together(single, 2, pinned=False))
    assert [batch["name"] for batch in whole] == [[0, 1], [2, 3], [4]]
    for batch in whole:
        assert batch["label"] == batch["size"] == batch["name"]
        for scale in batch["images"]:
            assert scale.shape[1:] == (2, 3, 3) and scale[:, 0, 0, 0].tolist() == batch["name"]


def test_little_memory_changes_the_batch_and_not_the_files(trained, run_main, monkeypatch):  # noqa: F811
    flags = ("--restore-from", "./snapshots/stage1/GTA5_4.pth", *PREDICTION, "--batchsize", "4")
    said = []
    for name, free in (("much", 1 << 40), ("little", 1)):
        monkeypatch.setattr(restore, "free_memory", lambda _, free=free: free)
        said.append(run_main("generate_plabel_cityscapes", *flags, "--save", name))
        assert said[-1].returncode == 0
    assert "images a pass" not in said[0].stdout and "so 1 images a pass" in said[1].stdout
    for name in ("much", "little"):
        (trained / name / "run.yaml").unlink()  # of times and commands
    much, little = (files_of(trained / name) for name in ("much", "little"))
    assert len(much) == len(little) == 12
    same = [
        content == little[trained / "little" / path.relative_to(trained / "much")]
        for path, content in much.items()
    ]
    assert sum(same) >= 8  # rounding may differ
