"""The whole method on synthetic data, as the README's first command runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import LABEL_IDS

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "Source only": "source_only",
    "Stage I (MRNet)": "stage1",
    "Stage II, conventional": "stage2_conventional",
    "Stage II, rectified": "stage2_rectified",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a quick demo and what it printed."""
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(ROOT / "demo.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_demo_prints_the_evaluated_miou_of_every_method(demo):
    out, printed = demo
    table = printed[printed.rindex("Source only  ") :]
    mious = [float(value) for value in re.search(r"^mIoU\s+(.*)$", table, re.M)[1].split()]
    results = [json.loads((out / f"result/cityscapes{f}/metrics.json").read_text()) for f in METHODS.values()]
    assert mious == [round(100 * result["miou"], 2) for result in results]
    assert all(title in table for title in METHODS)
    assert len({json.dumps(result["confusion"]) for result in results}) == len(METHODS)


def test_demo_shows_the_commands_a_user_would_type(demo):
    _, printed = demo
    commands = re.findall(r"^\$ python (\S+) ", printed, re.M)
    assert commands == [
        *["train_ms.py"] * 2,
        *["generate_plabel_cityscapes.py", "train_ms.py"],
        *["train_ft.py"] * 2,
        *["evaluate_cityscapes.py"] * 4,
    ]


def test_demo_says_as_it_goes_what_it_does(demo):
    _, printed = demo
    steps = re.findall(r"^\[\d+:\d\d\] Step (\d) of 6: (.+)$", printed, re.M)
    assert [number for number, _ in steps] == list("123456")
    done = ("common start", "Stage I,", "pseudo labels", "Stage II,", "evaluated", "evaluated")
    assert all(words in what for words, (_, what) in zip(done, steps, strict=True))


def test_demo_page_is_self_contained_and_shows_every_method(demo):
    out, _ = demo
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in METHODS)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert page.count("data:image/") >= 4 * len(METHODS)
    assert "<script" not in page


def test_synthetic_data_hold_most_classes_in_both_domains(demo):
    out, _ = demo
    for labels in ("GTA5/labels", "Cityscapes/data/gtFine/train"):
        files = list((out / "data" / labels).rglob("*.png"))
        ids = set(np.concatenate([np.unique(np.asarray(Image.open(file))) for file in files]).tolist())
        assert len(files) == 16
        assert len(ids & set(LABEL_IDS)) >= 14
