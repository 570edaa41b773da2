"""Networks and training steps against reference values, to 1e-9 in float64.

The values in tests/golden come from an independent implementation of the published method;
`golden/inputs.py` rebuilds every input and weight by name.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import trainer_ms
import trainer_ms_variance
from model.deeplab_multi import DeeplabMulti
from model.ms_discriminator import MsImageDis
from tests.golden import inputs
from utils.options import stage1_args, stage2_args

GOLDEN = Path(__file__).parent / "golden"
CLASSES = 19


@pytest.fixture(autouse=True, scope="module")
def double_precision():
    """Everything in this file computes in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def network(double_precision) -> DeeplabMulti:
    """The full network with the reference weights, which take seconds to draw."""
    network = DeeplabMulti(CLASSES, use_se=True, norm_style="gn").eval()
    fill(network)
    return network


def close(value: float) -> object:
    """Equal to a reference value to 1e-9."""
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def fill(module: torch.nn.Module, prefix: str = "") -> None:
    """The reference weights."""
    module.load_state_dict(inputs.weights(module.state_dict(), prefix))


def shapes(module: torch.nn.Module) -> dict:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


def test_names_shapes_and_trained_parameters_are_the_published_ones(network):
    keys = golden("keys.json")
    assert shapes(network) == keys["network_19_se_gn"]
    trained = [key for key, p in network.named_parameters() if p.requires_grad]
    assert trained == keys["network_19_se_gn_trained"]
    assert shapes(MsImageDis(CLASSES)) == keys["discriminator_19"]


@pytest.mark.parametrize(("suffix", "shape"), [("", (1, 3, 64, 128)), ("2", (2, 3, 97, 161))])
def test_network_gives_the_reference_logits(network, suffix: str, shape: tuple):
    with torch.no_grad():
        aux, main = network(inputs.draw("x" + suffix, shape, 50).double())
    reference = np.load(GOLDEN / "model_A.npz")
    for logits, name in ((aux, "aux"), (main, "main")):
        expected = reference[name + suffix]
        np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_discriminator_gives_the_reference_losses_and_gradients():
    reference = golden("discriminator.json")
    discriminator = MsImageDis(CLASSES)
    fill(discriminator, "D")
    fake, real = (
        inputs.draw(name, (2, CLASSES, 64, 128), 2).double().softmax(1) for name in ("fake", "real")
    )
    loss, penalty = discriminator.dis_loss(fake, real)
    loss.backward()
    assert loss.item() == close(reference["dis_loss"])
    assert penalty.item() == close(reference["reg"])
    for key, parameter in discriminator.named_parameters():
        assert parameter.grad.norm().item() == close(reference["grad_norms"][key]), key
    fake.requires_grad_()
    loss = discriminator.gen_loss(fake)
    loss.backward()
    assert loss.item() == close(reference["gen_loss"])
    assert fake.grad.norm().item() == close(reference["fake_grad_norm"])
    assert [list(score.shape) for score in discriminator(fake)] == reference["shapes"]


@pytest.mark.parametrize(
    ("name", "module", "parse"),
    [("stage1", trainer_ms, stage1_args), ("stage2", trainer_ms_variance, stage2_args)],
)
def test_three_steps_give_the_reference_losses_and_parameters(network, name: str, module, parse):
    reference = golden(f"{name}.json")
    args = parse([])
    for flag, value in reference["args"].items():
        setattr(args, flag, value)
    trainer = module.AD_Trainer(args)
    trainer.G.load_state_dict(network.state_dict())
    fill(trainer.D1, "D1")
    fill(trainer.D2, "D2")
    for index, expected in enumerate(reference["steps"]):
        check_step(trainer, reference, index, expected)
    for trained, key in ((trainer.G, "params"), (trainer.D2, "D2")):
        state = trained.state_dict()
        for tensor, (total, absolute) in reference[key].items():
            assert state[tensor].sum().item() == close(total), tensor
            assert state[tensor].abs().sum().item() == close(absolute), tensor


def check_step(trainer, reference: dict, index: int, expected: dict) -> None:
    """One step; a term whose weight is 0 is reported as 0."""
    batch, (height, width) = reference["batch"], reference["args"]["crop_size"]
    images, images_t = (
        inputs.draw(f"{name}{index}", (batch, 3, height, width), 50).double() for name in ("im", "imt")
    )
    size = (batch, height, width, CLASSES)
    labels = inputs.label_blocks(f"lab{index}", *size, skew=reference["skew"])
    labels_t = inputs.label_blocks(f"labt{index}", *size)
    trainer.adjust_learning_rates(expected["iter"])
    rates = [group["lr"] for group in trainer.gen_opt.param_groups]
    assert rates == close(expected["lr"])
    assert trainer.rates()["lr_D"] == close(expected["lr_D"])
    losses, predictions = trainer.gen_update(images, images_t, labels, labels_t, expected["iter"])
    losses |= trainer.dis_update(*predictions)
    assert trainer.class_weight.tolist() == close(expected["class_weight"])
    off = {
        term
        for term, flag in (("adv1", "lambda_adv_target1"), ("adv2", "lambda_adv_target2"))
        if reference["args"][flag] == 0
    }
    for term, loss in losses.items():
        assert loss.item() == (0 if term in off else close(expected[term])), term
