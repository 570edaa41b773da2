"""AdaptSegNet and CLAN: losses and steps against reference values in float64, and trainings with them."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.snapshots import save_snapshot
from model.deeplab_multi import DeeplabMulti
from model.fc_discriminator import FCDiscriminator
from tests.conftest import TRAINING, one_line_error, run_in, write_world
from tests.golden import inputs
from trainer_ms import AD_Trainer
from utils.adversaries import ADVERSARIES
from utils.losses import adversarial_loss, disagreement_map, segmentation_loss, weight_discrepancy
from utils.options import stage1_args

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


# Steps


def trainer_of(flags: dict, **network: object) -> AD_Trainer:
    """A trainer of the mini network with these flags."""
    flags = {"arch": "mini", **network, **flags}
    return AD_Trainer(stage1_args([f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]))


CLAN = {"adversarial": "clan", "lambda-seg": 1, "focal": 2, "lambda-adv-target1": 0, "warm-up-start": 0}
CLAN |= {"warm-up-D": True, "batch-size": 1}


def reference_trainer(name: str) -> tuple[AD_Trainer, dict, dict]:
    """A trainer with the flags and weights of a reference file; its settings and values."""
    setting, reference = golden(name)
    flags = setting["args"] | {"nesterov": setting.get("nesterov", False)}
    size, size_t = (flags.pop(key) for key in (sorted(k for k in flags if k.startswith("input-size"))))
    flags |= {"crop-size": size}
    if name.startswith("clan"):
        flags |= CLAN | {"warm-up": setting["preheat"], "lambda-adv-target2": setting["lambda_adv"]}
        flags |= {n.replace("_", "-"): setting[n] for n in ("epsilon", "lambda_local", "lambda_weight")}
    else:
        flags["adversarial"] = "adaptsegnet"
    trainer = trainer_of(flags, **setting["net"])
    for module, prefix in ((trainer.G, ""), (trainer.D1, "D1"), (trainer.D2, "D2")):
        if module:
            fill(module, prefix)
    setting["sizes"] = [tuple(map(int, reversed(s.split(",")))) for s in (size, size_t)]
    return trainer, setting, reference


def reference_step(trainer: AD_Trainer, setting: dict, s: int) -> dict[str, float]:
    """The losses of a step on the reference images, with the rates before it."""
    n, classes = trainer.args.batch_size, trainer.args.num_classes
    size, size_t = setting["sizes"]
    images = inputs.draw(f"im{s}", (n, 3, *size), 50).double()
    images_t = inputs.draw(f"imt{s}", (n, 3, *size_t), 50).double()
    labels = inputs.label_blocks(f"lab{s}", n, *size, classes, setting["skew"])
    trainer.adjust_learning_rates(s)
    losses, predictions = trainer.gen_update(images, images_t, labels, None, s)
    losses |= trainer.dis_update(*predictions)
    rates = [group["lr"] for group in trainer.gen_opt.param_groups]
    return {name: loss.item() for name, loss in losses.items()} | trainer.rates() | {"lr": rates}


@pytest.mark.parametrize("name", [f"{kind}_steps_{n}" for kind in ("adaptsegnet", "clan") for n in (1, 2)])
def test_steps_give_the_reference_losses_and_parameters(name):
    trainer, setting, reference = reference_trainer(name)
    for expected in reference["steps"]:
        i = expected["iter"]
        found = reference_step(trainer, setting, i)
        unused = ("adv1", "D1") if trainer.D1 is None else ()
        assert all(found[key] == 0 for key in unused)
        assert found["lr"] == close(expected["lr"])
        compared = [key for key in expected if key in found and key not in (*unused, "lr")]
        assert {key: found[key] for key in compared} == close({key: expected[key] for key in compared})
        if "weight_in_loss" in expected:
            weights = trainer.weights
            discrepancy = weights.get("weight", 0) * found.get("weight", 0)  # no key where it is off
            assert discrepancy == close(expected["weight_in_loss"])
            assert weights["adv2"] * found["adv2"] == close(expected["adv2_in_loss"])
    for key, module in (("params", trainer.G), ("D1", trainer.D1), ("D2", trainer.D2)):
        for tensor, sums in (reference.get(key, {}) if module else {}).items():
            value = module.state_dict()[tensor]
            assert [value.sum().item(), value.abs().sum().item()] == close(sums), (key, tensor)


def test_a_discriminator_is_used_where_its_own_weight_is_above_0(tmp_path):
    def parts(**flags: object) -> list[str]:
        trainer = trainer_of({name.replace("_", "-"): value for name, value in flags.items()})
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        save_snapshot(trainer, folder, "x", 1)
        return sorted(path.stem.removeprefix("x_1") for path in folder.iterdir())

    one, two = {"lambda_adv_target1": 0}, {"lambda_adv_target2": 0}
    assert parts(adversarial="adaptsegnet") == ["", "_D1", "_D2"]
    assert parts(adversarial="adaptsegnet", **one) == parts(adversarial="clan", **one) == ["", "_D2"]
    assert parts(adversarial="adaptsegnet", **two) == ["", "_D1"]
    assert parts(adversarial="adaptsegnet", **one, **two) == parts(**one) == [""]


def test_clans_adversarial_losses_of_a_batch_are_the_means_over_its_images():
    adversary = ADVERSARIES["clan"](stage1_args(["--adversarial=clan", "--lambda-adv-target1=0"]))
    D = fill(FCDiscriminator(19), "D")
    z, z_t = ([draw(f"{name}{k}", (2, 19, 32, 64), 2) for k in (1, 2)] for name in ("z", "zt"))
    for loss in (
        lambda z, z_t: adversary.network_loss(D, 2, z_t, 1),
        lambda z, z_t: adversary.discriminator_loss(D, 2, z, z_t, 1),
    ):
        single = [loss([x[i : i + 1] for x in z], [x[i : i + 1] for x in z_t]).item() for i in (0, 1)]
        assert loss(z, z_t).item() == close(sum(single) / 2)


# Trainings

SCRIPT_CLAN = (
    *("train_ms", *TRAINING, "--adversarial", "clan", "--lambda-adv-target1", "0", "--lambda-weight", "0.01"),
    *("--focal", "2", "--warm-up", "1", "--warm-up-start", "0", "--warm-up-D", "--nesterov", "False"),
    *("--save-state-every", "1", "--swa"),
)


def test_a_training_with_clan_resumes_exactly_across_the_end_of_its_warm_up(tmp_path):
    torch.set_default_dtype(torch.float32)
    write_world(tmp_path)
    for name, flags in (
        ("whole", SCRIPT_CLAN),
        ("parts", (*SCRIPT_CLAN, "--num-steps-stop", "1")),
        ("parts", ("train_ms", "--cpu", "--resume", "--num-steps-stop", "4")),
    ):
        result = run_in(tmp_path, *flags, "--snapshot-dir", name)
        assert result.returncode == 0, result.stderr
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    names = ["GTA5_4.pth", "GTA5_4_D2.pth", "GTA5_4_average.pth"]
    assert sorted(path.name for path in whole.glob("GTA5_4*")) == names
    assert all((whole / name).read_bytes() == (parts / name).read_bytes() for name in names)
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert lines == [json.loads(line) for line in (parts / "log.jsonl").read_text().splitlines()]
    assert all(line["weight"] > 0 and line["adv2"] > 0 and line["D1"] == 0 for line in lines)
    rates = [[line["lr"], line["lr_D"]] for line in lines]
    assert rates[0] == [0, 0] and rates[1] == pytest.approx([2.5e-4 * 0.75**0.9, 1e-4 * 0.75**0.9])

    other = run_in(tmp_path, *SCRIPT_CLAN, "--snapshot-dir", "parts", "--resume", "--adversarial", "mrnet")
    one_line_error(other, "--adversarial")


def test_resuming_with_other_discriminators_names_their_flags(tmp_path):
    torch.set_default_dtype(torch.float32)
    write_world(tmp_path)
    flags = ("train_ms", *TRAINING, "--adversarial", "adaptsegnet", "--snapshot-dir", "run")
    result = run_in(tmp_path, *flags, "--num-steps-stop", "1", "--lambda-adv-target1", "0")
    assert result.returncode == 0, result.stderr
    other = run_in(tmp_path, *flags, "--resume", "--lambda-adv-target1", "0.1")
    one_line_error(other, "--lambda-adv-target1", "--lambda-adv-target2")
