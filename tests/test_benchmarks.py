"""The benchmarks run, and both of their ways do the same work; speed is not tested here."""

import json

import numpy as np
import pytest
import torch

from benchmarks import data_path, step
from benchmarks.harness import BASELINE, OURS, Meter
from tests.conftest import ROOT, run_script

pytestmark = pytest.mark.usefixtures("one_thread")


def test_prediction_compares_pseudo_labels_and_evaluation(tmp_path):
    file = tmp_path / "figures.json"
    flags = ("--images", "1", "--repeats", "1", "--json", file)
    done = run_script("benchmarks/prediction", *flags, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    for task in ("pseudo labels", "evaluation"):
        ours, baseline = (found[task][way]["seconds"] for way in ("ours", "baseline"))
        assert found[task]["ratio"] == pytest.approx(baseline / ours)
        assert found[task]["differing_pixels"] < 20  # of two million: rounding
    differing = found["evaluation"]["differing_counts"], found["evaluation"]["differing_pixels"]
    assert differing[0] <= 2 * differing[1]


@pytest.mark.parametrize("stage", step.STAGES)
def test_both_ways_make_the_same_step(stage):
    args = step.stage_args(stage, "fp32", checkpointing=False, arch="mini", crop="32,32")
    losses = {}
    for way in (BASELINE, OURS):
        run = step.runner(way, stage, args, torch.device("cpu"))
        torch.manual_seed(1)  # of dropout
        losses[way] = {name: float(loss) for name, loss in run().items()}
    # The divergence of untrained classifiers is a difference of almost equal numbers.
    expected = {name: pytest.approx(loss, rel=1e-4, abs=1e-7) for name, loss in losses[BASELINE].items()}
    assert {name: losses[OURS][name] for name in expected} == expected


def test_steps_are_timed_beside_the_baseline():
    args = step.stage_args("stage1", "fp32", checkpointing=False, arch="mini", crop="32,32")
    found = step.compare_steps("stage1", args, torch.device("cpu"), rounds=1)
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
        found = data_path.compare_samples(data, 0.1)
        assert found["samples"] > 0 and found["ratio"] > 0
        for seed in range(3):
            sample = data.sample(0, np.random.default_rng(seed))
            other = data_path.baseline_sample(data, 0, np.random.default_rng(seed))
            pixels = (other["image"].numpy().transpose(1, 2, 0) + data_path.MEAN)[:, :, ::-1].round()
            assert np.abs(pixels - sample["image"].numpy()).max() <= 1
            # Where two pixels are equally near, Pillow takes either.
            assert np.mean(other["label"].numpy() != sample["label"].numpy()) < 0.005
