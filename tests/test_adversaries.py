"""AdaptSegNet and CLAN: losses and steps against reference values in float64, and trainings with them."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from model.deeplab_multi import DeeplabMulti
from model.fc_discriminator import FCDiscriminator
from tests.golden import inputs
from utils.losses import adversarial_loss, disagreement_map, segmentation_loss, weight_discrepancy

GOLDEN = Path(__file__).parent / "golden"
pytestmark = pytest.mark.usefixtures("float64", "one_thread")


def golden(name: str) -> tuple[dict, dict]:
    content = json.loads((GOLDEN / f"{name}.json").read_text())
    return content.pop("setting"), content.get("results", content)


def close(value: object) -> object:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """The reference weights."""
    module.load_state_dict(inputs.weights(module.state_dict(), prefix))
    return module


def draw(name: str, shape: tuple, scale: float) -> torch.Tensor:
    return inputs.draw(name, tuple(shape), scale).double().requires_grad_()


def gradient_norms(module: nn.Module) -> dict[str, float]:
    return {name: p.grad.norm().item() for name, p in module.named_parameters()}


def mini(classes: int, setting: dict) -> DeeplabMulti:
    return fill(DeeplabMulti(classes, setting["use_se"], False, setting["norm_style"], 0.0, "mini"))


@pytest.mark.parametrize("gan", ["Vanilla", "LS"])
@pytest.mark.parametrize("number", [1, 2])
def test_adaptsegnets_losses_and_gradients_are_the_reference_ones(number, gan):
    setting, reference = golden(f"adaptsegnet_losses_{number}")
    expected = reference[gan.lower()]
    shape, scale = setting["shape"], setting["scale"]
    D = fill(FCDiscriminator(shape[1]), setting["D"])
    assert {name: list(p.shape) for name, p in D.named_parameters()} == reference["state_dict"]
    z = draw("asn_z", (*shape[:2], *setting["source_size"]), scale)
    z_t = draw("asn_zt", shape, scale)
    for name, logits in (("score_source", z), ("score_target", z_t)):
        score = D(logits.softmax(1))
        assert list(score.shape) == reference[name]["shape"]
        assert [score.sum().item(), score.abs().sum().item()] == close(reference[name]["sums"])

    loss = adversarial_loss(D(z_t.softmax(1)), 0, gan)
    (gradient,) = torch.autograd.grad(loss, z_t)
    assert [loss.item(), gradient.norm().item()] == close([expected["gen_loss"], expected["gen_grad_norm"]])

    losses = [0.5 * adversarial_loss(D(x.softmax(1)), label, gan) for x, label in ((z, 0), (z_t, 1))]
    sum(losses).backward()
    assert losses[0].item() == close(expected["dis_loss_source"])
    assert losses[1].item() == close(expected["dis_loss_target"])
    assert gradient_norms(D) == close(expected["dis_grad_norms"])


@pytest.mark.parametrize("number", [1, 2])
def test_clans_losses_and_gradients_are_the_reference_ones(number):
    setting, reference = golden(f"clan_losses_{number}")
    shape = setting["shape"]
    z1, z2, z1_t, z2_t = (
        draw(f"clan_{name}", shape, setting["scale"]) for name in ("z1", "z2", "zt1", "zt2")
    )
    D = fill(FCDiscriminator(shape[1]), setting["D"])

    size = (1, *shape[2:], shape[1])
    labels = inputs.label_blocks("clan_lab", *size, skew=setting["skew"])
    loss = segmentation_loss(z1, labels, torch.ones(shape[1]), focal=2.0)
    (gradient,) = torch.autograd.grad(loss, z1)
    focal = reference["focal"]
    assert [loss.item(), gradient.norm().item()] == close([focal["loss"], focal["grad_norm"]])

    disagreement = disagreement_map(z1_t, z2_t)
    expected = reference["weight_map"]
    assert list(disagreement.shape) == expected["shape"]
    found = [disagreement.sum().item(), disagreement.abs().sum().item(), disagreement.max().item()]
    assert found == close([*expected["sums"], expected["max"]])

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(
            D((a + b).softmax(1)), shape[2:], mode="bilinear", align_corners=True
        )

    weight = setting["epsilon"] + setting["lambda_local"] * disagreement
    for name, w in (("adv_weighted", weight), ("adv_plain", None)):
        loss = adversarial_loss(score(z1_t, z2_t), 0, weight=w)
        gradients = torch.autograd.grad(loss, (z1_t, z2_t), retain_graph=True)
        assert loss.item() == close(reference[name]["loss"])
        assert [g.norm().item() for g in gradients] == close(reference[name]["grad_norms"])

    losses = (
        adversarial_loss(score(z1, z2), 0),
        adversarial_loss(score(z1_t, z2_t), 1, weight=weight.detach()),
    )
    sum(losses).backward()
    expected = reference["dis"]
    assert [loss.item() for loss in losses] == close([expected["source"], expected["target_weighted"]])
    assert gradient_norms(D) == close(expected["grad_norms"])


@pytest.mark.parametrize("number", [1, 2])
def test_the_weight_discrepancy_compares_the_reference_parameters(number):
    setting, reference = golden(f"clan_losses_{number}")
    expected = reference["weights_compared"]
    network = mini(setting["shape"][1], setting)
    loss = weight_discrepancy(network.layer5, network.layer6)
    assert loss.item() == close(1 + expected["dot"] / (expected["norm5"] * expected["norm6"]))
    loss.backward()
    moved = [name for name, p in network.layer5.named_parameters() if p.grad is not None]
    assert moved == expected["names"]
    assert sum(p.numel() for p in network.layer6.parameters() if p.grad is not None) == expected["elements"]


def test_the_focal_loss_of_several_images_is_the_mean_over_their_labelled_pixels():
    z = draw("focal", (2, 5, 8, 16), 2)
    labels = inputs.label_blocks("focal", 2, 8, 16, 5)
    labels[1, :, :8] = 255
    losses = [segmentation_loss(z[i : i + 1], labels[i : i + 1], torch.ones(5), focal=2.0) for i in (0, 1)]
    pixels = [(part != 255).sum() for part in labels]
    expected = sum(loss * n for loss, n in zip(losses, pixels, strict=True)) / sum(pixels)
    assert segmentation_loss(z, labels, torch.ones(5), focal=2.0).item() == close(expected.item())


def test_a_certain_prediction_has_a_finite_focal_gradient():
    z = torch.tensor([200.0, 0, 0], dtype=torch.float32).view(1, 3, 1, 1).requires_grad_()
    for label in (0, 1):
        labels = torch.full((1, 1, 1), label)
        loss = segmentation_loss(z, labels, torch.ones(3, dtype=torch.float32), focal=0.5)
        (gradient,) = torch.autograd.grad(loss, z)
        assert loss.isfinite() and gradient.isfinite().all()
