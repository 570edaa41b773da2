"""AdaBoost_Seg: its arithmetic against reference values of the released code, and trainings that use it.

Every input of the reference values is rebuilt by its name (golden/inputs.py).
"""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import engine.averaging
from dataset.sampling import TrainingStream
from deploy.segmenter import load_segmenter
from model.deeplab_multi import DeeplabMulti
from tests.conftest import PREDICTION, TRAINING, run_in, write_world
from tests.golden import inputs
from tests.test_resume import assert_equal, assert_same_end, folders, what_counts
from trainer_ms import AD_Trainer as Stage1Trainer
from trainer_ms_variance import AD_Trainer as Stage2Trainer
from utils.averaging import estimate_statistics, measure, measure_of, new_average, update_weights
from utils.options import stage1_args, stage2_args

GOLDEN = [json.loads((Path(__file__).parent / f"golden/adaboost_{x}.json").read_text()) for x in "AB"]


def close(value) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


class Tiny(nn.Module):
    """The smallest network with BN and two classifiers, as golden/README-1.md describes it."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.aux = nn.Conv2d(8, classes, 1)
        middle = nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()
        self.main = nn.Sequential(*middle, nn.Conv2d(16, classes, 1, bias=False))

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.aux(x), self.main(x)


def reference_network(settings: dict) -> nn.Module:
    classes = settings["num_classes"]
    if settings["network"] == "tiny":
        return Tiny(classes)
    return DeeplabMulti(classes, settings["use_se"], False, settings["norm_style"], 0.0, "mini")


def drawn(settings: dict, kind: str, size: list[int]) -> list[torch.Tensor]:
    """The reference images of a kind, in their batches."""
    names = [f"{settings['tag']}_{kind}{i}" for i in range(settings["images"])]
    images = torch.stack([inputs.draw(name, (3, *size), 50).double() for name in names])
    return list(images.split(settings["batch"]))


def sums(tensor: torch.Tensor) -> list[float]:
    return [tensor.sum().item(), tensor.abs().sum().item()]


@pytest.mark.parametrize("golden", GOLDEN, ids="AB")
def test_averages_statistics_and_weights_are_those_of_the_released_code(golden, float64):
    settings = golden["settings"]
    network = reference_network(settings)
    average = new_average(network, settings["ema"])
    weights = torch.full((settings["images"],), 1 / settings["images"])
    for number, expected in enumerate(golden["rounds"]):
        network.load_state_dict(inputs.weights(network.state_dict(), f"{settings['tag']}_s{number}:"))
        average.update_parameters(network)
        estimate_statistics(average.module, drawn(settings, "b", settings["bn_size"]))
        state = {name: value.clone() for name, value in average.module.state_dict().items()}
        assert int(average.n_averaged) == expected["n_averaged"]
        for name, value in expected["parameters"].items():
            assert sums(state[name]) == close(value), name
        for name, value in expected["batch_norm"].items():
            whole = settings["network"] == "tiny" or state[name].dim() == 0
            assert (state[name].tolist() if whole else sums(state[name])) == close(value), name
        measured = average.module if not settings["recent"] else network
        images, size = drawn(settings, "m", settings["measured_size"]), settings["crop_size"]
        v = torch.cat([measure(measured, batch, size, settings["adatype"]) for batch in images])
        weights = update_weights(weights, v)
        assert v.tolist() == close(expected["measure"])
        assert weights.tolist() == close(expected["sampling_weights"])
        assert weights.sum().item() == close(1)
        after = average.module.state_dict()
        assert all(torch.equal(after[name], value) for name, value in state.items())  # measuring changes none


def test_measures_of_given_logits_and_two_updates_are_those_of_the_released_code(float64):
    golden = GOLDEN[0]["given_logits"]
    settings = golden["settings"]
    shape = (settings["num_classes"], *settings["logit_size"])
    z1, z2 = (
        torch.stack([
            inputs.draw(f"{settings['tag']}_{z}_{i}", shape, settings["scale"]).double()
            for i in range(settings["images"])
        ])
        for z in ("z1", "z2")
    )  # fmt: skip
    for adatype in ("variance", "entropy"):
        v = measure_of(z1, z2, settings["crop_size"], adatype)
        weights = torch.full_like(v, 1 / len(v))
        assert v.tolist() == close(golden[adatype]["measure"])
        for after in ("weights_after_1", "weights_after_2"):
            weights = update_weights(weights, v)
            assert weights.tolist() == close(golden[adatype][after])


def test_an_exponential_average_and_a_temperature_follow_their_formulas():
    network = nn.Linear(1, 1)
    average = new_average(network, ema=0.75)
    for value in (1.0, 3.0, 7.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    assert average.module.weight.item() == 0.75 * (0.75 * 1 + 0.25 * 3) + 0.25 * 7
    cold = update_weights(torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.1]), temperature=0.1)
    e = torch.e
    assert cold.tolist() == pytest.approx([(e / (1 + e) + 0.5) / 2, (1 / (1 + e) + 0.5) / 2], rel=1e-6)


@pytest.mark.parametrize(("parse", "trainer"), [(stage1_args, Stage1Trainer), (stage2_args, Stage2Trainer)])
def test_cosine_gives_the_reference_rates_and_none_without(parse, trainer):
    golden = GOLDEN[0]["cosine_rates"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in golden["settings"].items()]
    args = parse([*flags, "--arch", "mini"])
    trained = trainer(args)
    for iteration, rates in golden["rates"].items():
        trained.adjust_learning_rates(int(iteration))
        assert [group["lr"] for group in trained.gen_opt.param_groups] == close(rates)
    args.cosine = False
    trained.adjust_learning_rates(29999)
    assert trained.gen_opt.param_groups[0]["lr"] == close(8e-4 * (1 - 0.29999) ** 0.9)


def test_images_are_drawn_as_often_as_their_weights_say():
    weights = torch.tensor([0.1, 0.0, 0.55, 0.05, 0.3], dtype=torch.float64)
    draws = 20000
    stream = TrainingStream([None] * 5, draws, (7, 1), weights=weights)
    drawn = np.array([stream.draw(position)[0] for position in range(draws)])
    found = np.bincount(drawn, minlength=5) / draws
    assert found == pytest.approx(weights.numpy(), abs=4 * np.sqrt(0.25 / draws)) and found[1] == 0
    pairs = np.bincount(5 * drawn[:-1] + drawn[1:], minlength=25) / (draws - 1)  # one after the other
    assert pairs == pytest.approx(np.outer(weights, weights).ravel(), abs=4 * np.sqrt(0.25 / draws))


# Trainings

FLAGS = (
    *(*TRAINING, "--crop-size", "32,32", "--num-steps", "6", "--drop", "0.3", "--norm-style", "bn"),
    *("--save-num-images", "0", "--save-state-every", "2"),
)
AVERAGED = (*FLAGS, "--swa", "--swa_every", "2", "--swa-batch", "3")
SAMPLED = (*AVERAGED, "--adaboost", "--eval-every", "3", "--keep-best")


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A working folder with data, and `run(folder, flags)`'s results."""
    return write_world(tmp_path_factory.mktemp("averaging"))


@pytest.fixture(scope="module")
def sampled(start) -> Path:
    """The folder of a run with averages, sampling and validation."""
    result = run_in(start, "train_ms", *SAMPLED, *folders(start / "sampled"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("times as often as uniformly") == 3  # not after the last iteration
    return start / "sampled"


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_swa_adds_the_means_of_the_networks_and_leaves_everything_else_as_it_is(start):
    runs = {"plain": FLAGS, "averaged": (*AVERAGED, "--swa_start", "1")}
    for name, flags in runs.items():
        result = run_in(start, "train_ms", *flags, *folders(start / name))
        assert result.returncode == 0, result.stderr
    plain, averaged = (what_counts(start / name) for name in runs)
    assert averaged.keys() - plain.keys() == {f"GTA5_{n}_average.pth" for n in (2, 4, 6)}
    assert all(averaged[name] == content for name, content in plain.items())
    states = [tensors(start / name / "training_state.pt") for name in runs]
    for state in states:
        state.pop("options"), state.pop("averaging", None)
    assert_equal(*states)
    networks = {n: tensors(start / f"averaged/GTA5_{n}.pth") for n in (2, 4, 6)}
    for last, count in ((2, 1), (4, 2), (6, 3)):
        average = tensors(start / f"averaged/GTA5_{last}_average.pth")
        assert average.keys() == networks[6].keys()
        parts = [network for n, network in networks.items() if n <= last]
        assert len(parts) == count
        for name, value in average.items():
            if "running" not in name and "num_batches" not in name:
                mean = torch.stack([part[name] for part in parts]).mean(0)
                torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-7, msg=name)
        assert average["bn1.num_batches_tracked"] == 2 * 2  # 4 images in 2 batches, each mirrored too
        assert not torch.equal(average["bn1.running_mean"], networks[last]["bn1.running_mean"])


class Interrupting:
    """`measure`, which stops the program at its n-th call; an update makes two calls."""

    def __init__(self, call: int, stop):
        self.calls, self.call, self.stop = 0, call, stop

    def __call__(self, *args):
        self.calls += 1
        if self.calls == self.call:
            self.stop()
        return measure(*args)


def crash() -> None:
    raise ZeroDivisionError  # leaves no time to save, as a kill


@pytest.mark.parametrize(("how", "call", "saved"), [("SIGTERM", 1, 1), ("crash", 4, 2), ("SIGTERM", 5, 5)])
def test_a_run_stopped_inside_an_update_ends_as_one_that_was_not(
    how, call, saved, sampled, start, tmp_path, monkeypatch
):
    flags = (*SAMPLED, *folders(tmp_path / "run"), "--resume")
    with monkeypatch.context() as patch:
        stop = crash if how == "crash" else lambda: os.kill(os.getpid(), signal.SIGTERM)
        patch.setattr(engine.averaging, "measure", Interrupting(call, stop))
        if how == "crash":
            with pytest.raises(ZeroDivisionError):
                run_in(start, "train_ms", *flags)
        else:
            stopped = run_in(start, "train_ms", *flags)
            assert stopped.returncode == 143 and f"before iteration {saved};" in stopped.stderr
    assert tensors(tmp_path / "run/training_state.pt")["iteration"] == saved
    result = run_in(start, "train_ms", *flags)
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "run", sampled)


def test_a_run_made_longer_ends_as_one_that_was_never_shorter(sampled, start, tmp_path):
    flags = (*SAMPLED, *folders(tmp_path / "run"), "--resume")
    for stop in ("3", "6"):
        result = run_in(start, "train_ms", *flags, "--num-steps-stop", stop)
        assert result.returncode == 0, result.stderr
    for path in sampled.glob("GTA5_[46]*.pth"):
        assert (tmp_path / "run" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "run/log.jsonl").read_bytes() == (sampled / "log.jsonl").read_bytes()


def test_the_average_is_validated_too_and_the_better_network_is_kept(sampled):
    lines = [json.loads(line) for line in (sampled / "validation.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 6]
    scores = {
        (line["iteration"], kind): part["means"]["mIoU"]
        for line in lines
        for kind, part in (("network", line), ("average", line["average"]))
    }
    best = tensors(sampled / "GTA5_best.pth")
    names = {(6, "network"): "GTA5_6", (6, "average"): "GTA5_6_average", (3, "average"): "GTA5_2_average"}
    name = names.get(max(scores, key=scores.get))
    if name:  # of the network after iteration 3 there is no file
        assert_equal(dict(best), dict(tensors(sampled / f"{name}.pth")))


def test_every_script_that_predicts_reads_an_average(sampled, start):
    snapshot = sampled / "GTA5_6_average.pth"
    for name in ("evaluate_cityscapes", "generate_plabel_cityscapes"):
        flags = ("--restore-from", str(snapshot), *PREDICTION, "--save", str(start / name))
        result = run_in(start, name, *flags)
        assert result.returncode == 0, result.stderr
    scores = json.loads((start / "evaluate_cityscapes/metrics.json").read_text())
    assert 0 <= scores["means"]["mIoU"] <= 1
    network = load_segmenter(str(snapshot), device="cpu")
    assert network(np.zeros((40, 72, 3), np.uint8)).label.shape == (40, 72)
