"""The average of networks and the sampling weights against reference values of AdaBoost_Seg's released code.

Every input is rebuilt by its name (golden/inputs.py).
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from model.deeplab_multi import DeeplabMulti
from tests.golden import inputs
from utils.averaging import estimate_statistics, measure, measure_of, new_average, update_weights

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
