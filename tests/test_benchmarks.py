"""The benchmarks run, and both of their ways do the same work; speed is not tested here."""

import json

import pytest
import torch

from benchmarks import data_path, step
from benchmarks.harness import Meter
from tests.conftest import ROOT, run_script

pytestmark = pytest.mark.usefixtures("one_thread")


def test_prediction_compares_pseudo_labels_and_evaluation(tmp_path):
    file = tmp_path / "figures.json"
    flags = ("--images", "1", "--repeats", "1", "--json", file)
    done = run_script("benchmarks/prediction", *flags, cwd=ROOT)
    assert done.returncode == 0, done.stderr  # it ends with an error where the confusion matrices differ
    found = json.loads(file.read_text())
    for task in ("pseudo labels", "evaluation"):
        ours, baseline = (found[task][way]["seconds"] for way in ("ours", "baseline"))
        assert found[task]["ratio"] == pytest.approx(baseline / ours)
        assert found[task]["differing_pixels"] < 100  # of two million


@pytest.mark.parametrize("stage", step.STAGES)
def test_step_compares_losses(stage):
    args = step.stage_args(stage, "fp32", checkpointing=False, arch="mini", crop="32,32")
    found = step.compare_steps(stage, args, torch.device("cpu"), rounds=1)  # exits if they differ
    assert found["ratio"] == pytest.approx(found["baseline"]["seconds"] / found["ours"]["seconds"])


@pytest.mark.parametrize(
    ("work", "tensors"),
    [
        pytest.param(lambda a, b: a + b, 3, id="sum"),
        pytest.param(lambda a, b: a.add_(b), 3, id="sum in place"),
        pytest.param(lambda a, b: a.copy_(b), 2, id="copy"),
        pytest.param(lambda a, b: torch._foreach_mul_([a, b], 2.0), 4, id="several in place"),
        pytest.param(lambda a, b: a.view(10, 100).t().expand_as(b.view(100, 10)), 0, id="views"),
        pytest.param(lambda a, b: torch.empty_like(a), 0, id="memory"),
        pytest.param(lambda a, b: torch.ones(1).expand(1000) + b, 2.002, id="one number to all"),
        pytest.param(lambda a, b: a.view(10, 100) @ b.view(100, 10), 0, id="matrix product"),
    ],
)
def test_meter_counts_what_operations_move(work, tensors):
    a, b = torch.ones(1000), torch.ones(1000)
    with Meter() as meter:
        work(a, b)
    assert meter.moved == pytest.approx(tensors * 4000)


def test_data_path_compares_the_samples_of_each_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(data_path, "IMAGES", 1)
    data_path.draw_domains(tmp_path)
    for work in data_path.WORKS.values():
        data = data_path.open_stream(tmp_path, *work)
        found = data_path.compare_samples(data, 0.1)  # exits if samples differ
        assert found["samples"] > 0 and found["ratio"] > 0
