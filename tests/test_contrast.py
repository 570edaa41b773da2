"""PiPa's contrasts: reference values of the released code, and what they do in a training.

Every input of the reference values is rebuilt by its name (golden/inputs.py); they are float64.
"""

import copy
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import trainer_ms
import trainer_ms_variance
from benchmarks.step import count, stage_args
from model.deeplab_multi import DeeplabMulti
from model.projection import PixelHead
from tests.conftest import TRAINING, one_line_error, run_in, save_png
from tests.golden import inputs
from tests.test_distributed import assert_same, run_processes
from tests.test_resume import assert_equal
from tests.test_trainers import NoReading, NoSynchronisation
from utils.contrast import ANCHORS, choose_anchors, contrast_cells, pixel_contrast, uniform_draws
from utils.distributed import SINGLE_PROCESS, Processes
from utils.options import stage1_args, stage2_args

GOLDEN = Path(__file__).parent / "golden"
PIXEL = [json.loads((GOLDEN / f"pipa_pixel_{number}.json").read_text()) for number in (1, 2)]


def close(value: float) -> object:
    """Equal to a reference value to 1e-9."""
    return pytest.approx(value, rel=1e-9, abs=1e-12)


# Pixel contrast


@pytest.mark.parametrize("golden", PIXEL, ids=["skewed", "even"])
@pytest.mark.parametrize("ignored", [255, -1])
def test_anchors_pixel_loss_and_gradients_are_those_of_the_released_code(golden, ignored, float64):
    settings, expected = golden["setting"], golden["results"][f"ignore_{ignored}"]
    images, channels, *size = settings["features"]
    classes = settings["classes"]
    head = PixelHead(channels, settings["proj_dim"])
    reference = {key: torch.empty(shape) for key, shape in golden["results"]["head_keys"].items()}
    values = inputs.weights(reference, "proj").values()
    head.load_state_dict(dict(zip(head.state_dict(), values, strict=True)))
    features = inputs.draw("pipa_feat", settings["features"], settings["scale"]).double().requires_grad_()
    labels = inputs.label_blocks("pipa_lab", images, *settings["label_size"], classes, settings["skew"])
    labels = F.interpolate(labels[:, None].double(), size)[:, 0].long()
    predictions = inputs.draw("pipa_pred", (images, classes, *size)).argmax(1)
    right = inputs.draw("pipa_right", (images, *size)) > settings["right"]
    predictions = torch.where(right, labels.clamp_max(classes - 1), predictions)
    in_order = torch.arange(labels.numel()).view(labels.shape)

    cells, found = choose_anchors(
        labels, predictions, in_order, settings["max_samples"], settings["max_views"], ignored
    )
    assert cells.shape == (expected["anchors"], expected["views"])
    assert found.tolist() == expected["labels"]
    for places, (image, label, hard, easy) in zip(cells, expected["image_class_hard_easy"], strict=True):
        assert set(places.div(labels[0].numel(), rounding_mode="floor").tolist()) == {image}
        assert set(labels.flatten()[places].tolist()) == {label}
        wrong = (predictions.flatten() != labels.flatten())[places].sum()
        assert wrong == expected_hard(hard, easy, len(places))

    embeddings = head(features)
    assert embeddings.norm(dim=1).detach() == pytest.approx(1)
    sums = [embeddings.sum().item(), embeddings.abs().sum().item()]
    assert sums == close(golden["results"]["embedding"]["sums"])
    anchors = embeddings.permute(0, 2, 3, 1).flatten(0, 2)[cells.flatten()]
    loss = pixel_contrast(anchors, found.repeat_interleave(cells.shape[1]))
    loss.backward()
    assert loss.item() == close(expected["loss"])
    assert features.grad.norm().item() == close(expected["feature_grad_norm"])
    norms = expected["head_grad_norms"].values()
    assert [p.grad.norm().item() for p in head.parameters()] == [close(norm) for norm in norms]


def expected_hard(hard: int, easy: int, views: int) -> int:
    """How many of an image's class are hard, written here another way: half, unless one kind runs out."""
    return min(hard, max(views // 2, views - easy)) if 2 * hard >= views else hard


@pytest.mark.parametrize("golden", PIXEL, ids=["skewed", "even"])
def test_the_loss_of_given_anchors_is_that_of_the_released_code(golden, float64):
    pairs, views, dim = golden["setting"]["given"]
    given = inputs.draw("pipa_given", (pairs, views, dim)).double().requires_grad_()
    classes = torch.tensor(golden["setting"]["given_labels"]).repeat_interleave(views)
    loss = pixel_contrast(F.normalize(given, dim=2).flatten(0, 1), classes)
    loss.backward()
    assert loss.item() == close(golden["results"]["given"]["loss"])
    assert given.grad.norm().item() == close(golden["results"]["given"]["grad_norm"])


def test_without_a_class_of_enough_cells_the_loss_is_0_and_so_is_its_gradient():
    labels = torch.full((2, 10, 10), 3)  # 100 cells, one too few
    cells, classes = choose_anchors(labels, labels, torch.rand(2, 10, 10))
    assert len(cells) == len(classes) == 0
    embeddings = torch.randn(2, 4, 10, 10, requires_grad=True)
    loss = contrast_cells(F.normalize(embeddings), labels, labels, torch.rand(2, 10, 10))
    loss.backward()
    assert loss == 0 and not embeddings.grad.any()
    assert pixel_contrast(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)) == 0
    labels = torch.full((2, 20, 20), 3)  # enough, but all of one class: nothing to be pushed apart from
    loss = contrast_cells(F.normalize(torch.randn(2, 4, 20, 20)), labels, labels, torch.rand(2, 20, 20))
    assert loss == 0


def test_anchors_are_drawn_by_seed_iteration_and_image_alone():
    def draws(i_iter: int, images: range) -> torch.Tensor:
        return uniform_draws(1, 2, i_iter, images, (3, 4), torch.device("cpu"))

    both = draws(7, range(4, 6))
    assert both.shape == (2, 3, 4) and ((both >= 0) & (both < 1)).all()
    assert torch.equal(both[1], draws(7, range(5, 6))[0])
    assert not torch.equal(both, draws(8, range(4, 6)))
    assert not torch.equal(both[0], both[1])


# In a training

CLASSES, SIZE = 5, (104, 128)  # 14 x 17 cells
FLAGS = f"--arch mini --norm-style gn --droprate 0 --num-classes {CLASSES} --crop-size 128,104 --batch-size 3"
LEARNING = "--lambda-kl-target 0.1 --reg-start 0 --learning-rate 1e-2"
NOT_ADVERSARIAL = "--lambda-adv-target1 0 --lambda-adv-target2 0"
STAGES = {
    1: (trainer_ms, stage1_args, LEARNING),
    2: (trainer_ms_variance, stage2_args, f"{LEARNING} {NOT_ADVERSARIAL} --lambda-kl-target 0"),
}


def build(stage: int, *flags: str, weight: float = 0.1) -> torch.nn.Module:
    """A trainer whose predictions and embeddings differ from place to place."""
    torch.manual_seed(0)
    module, parse, common = STAGES[stage]
    trainer = module.AD_Trainer(parse([*f"{FLAGS} {common} --lambda-pixel {weight}".split(), *flags]))
    for layer in (trainer.G.layer5, trainer.G.layer6):
        torch.nn.init.normal_(layer.head[1].weight, std=0.5)
    return trainer


def batch(number: int, part: slice = slice(None)) -> tuple:
    """images, images_t, labels, labels_t: in every image a left and a right half of different classes."""
    generator = torch.Generator().manual_seed(number)
    pictures = [torch.randn(3, 3, *SIZE, generator=generator) * 50 for _ in range(2)]
    labels = torch.randint(CLASSES, (3, *SIZE), generator=generator)
    labels[:, :, :62] = labels[:, :1, :1] + 1
    labels[:, :, 66:] = labels[:, :1, -1:]
    labels[labels == CLASSES] = 255
    images, images_t = (x[part].to(torch.get_default_dtype()) for x in pictures)
    return images, images_t, labels[part], None


def step(trainer, i_iter: int, part: slice = slice(None)) -> dict:
    """The losses of an iteration on this part of each of its batches."""
    trainer.adjust_learning_rates(i_iter)
    for number in range(trainer.args.iter_size):
        update = number + 1 == trainer.args.iter_size
        number += i_iter * trainer.args.iter_size
        losses, predictions = trainer.gen_update(*batch(number, part), i_iter, update=update)
        losses |= trainer.dis_update(*predictions, update=update)
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_the_contrast_reaches_network_and_head_through_the_one_backward_pass(stage, float64, one_thread):
    trainer = build(stage, "--iter-size", "2")
    images, images_t, labels, _ = batch(0)
    network, args = copy.deepcopy(trainer), trainer.args
    losses, _ = trainer.gen_update(images, images_t, labels, None, 7, update=False)
    assert losses["pixel"] > 1

    z1, z2, embeddings, cells = network.segment(images, head="pixel")
    rank = uniform_draws(args.random_seed, ANCHORS, 7, range(3), cells.shape[2:], images.device)
    pixel = contrast_cells(embeddings, cells.argmax(1), labels, rank)
    assert losses["pixel"].item() == pytest.approx(pixel.item(), rel=1e-12)
    network.class_weight = network.compute_class_weight(labels)
    if stage == 2:
        network.soft_labels, network.image_weights = trainer.soft_labels, trainer.image_weights
    terms = {"pixel": pixel}
    for group in network.segmentation_losses(z1, z2, labels):
        terms |= group
    for group in network.target_losses(*network.segment(images_t), 7):
        terms |= group
    total = sum(trainer.weights[name] * term for name, term in terms.items())
    (total / 2).backward()
    assert network.heads["pixel"].layers[0].weight.grad.norm() > 0
    for (key, p), q in zip(network.named_parameters(), trainer.parameters(), strict=True):
        if key.startswith(("G", "heads")) and p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-8, atol=1e-11, msg=key)


def test_heads_learn_as_fast_as_classifiers_and_leave_everything_else_as_it_was():
    without, trainer = build(1, weight=0), build(1)
    assert "pixel" not in without.weights and not any("heads" in key for key in without.state_dict())
    for key, value in without.state_dict().items():
        assert torch.equal(trainer.state_dict()[key], value), key
    assert trainer.G.state_dict().keys() == without.G.state_dict().keys()
    classifiers = {id(p) for p in trainer.gen_opt.param_groups[1]["params"]}
    assert classifiers >= {id(p) for p in trainer.heads.parameters()}
    trainer.adjust_learning_rates(0)
    rates = [group["lr"] for group in trainer.gen_opt.param_groups]
    assert rates[1] == pytest.approx(10 * rates[0])
    drawn = torch.rand(1)  # such as dropout's masks
    build(1, weight=0)
    assert torch.equal(torch.rand(1), drawn)


def test_the_contrast_is_computed_in_full_precision_beside_a_network_in_bf16(one_thread):
    full, mixed = build(1), build(1, "--precision", "bf16")
    embeddings = mixed.segment(batch(0)[0], head="pixel")[2]
    assert embeddings.dtype == torch.float32
    assert embeddings.norm(dim=1).detach() == pytest.approx(1, abs=1e-6)
    assert step(mixed, 0)["pixel"] == pytest.approx(step(full, 0)["pixel"], rel=0.02)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_in_a_step_with_contrast_synchronises(stage, one_thread):
    trainer = build(stage)
    batches = [batch(number) for number in range(2)]
    trainer.gen_update(*batches[0], 0)
    with NoSynchronisation(), NoReading():
        trainer.gen_update(*batches[1], 1)


def train(processes: Processes) -> dict:
    """Two steps on this process's part of the batches, and what they leave."""
    trainer = build(1, "--sync_bn", "--iter-size", "2")
    trainer.distribute(processes)
    shard = processes.shard(3)
    losses = [step(trainer, i_iter, slice(shard.start, shard.stop)) for i_iter in range(2)]
    return {"losses": losses, "networks": trainer.state_dict()}


def test_two_processes_contrast_as_one_does(tmp_path, float64, one_thread):
    expected = train(SINGLE_PROCESS)
    assert all(losses["pixel"] > 1 for losses in expected["losses"])
    for found in run_processes(2, tmp_path, train):
        assert_same(found, expected)


def test_a_resumed_run_contrasts_as_an_uninterrupted_one(world, tmp_path):
    for path in (world / "data" / "GTA5" / "labels").iterdir():
        halves = np.full((128, 160), 7, np.uint8)
        halves[64:] = 11
        save_png(path, halves)
        save_png(world / "data" / "GTA5" / "images" / path.name, halves)
    flags = (*TRAINING, "--crop-size", "160,128", "--input-size", "160,128", "--input-size-target", "160,128")
    flags += ("--batch-size", "1", "--iter-size", "2", "--lambda-pixel", "0.1", "--tensorboard", "False")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, more in ((whole, ()), (parts, ("--num-steps-stop", "2")), (parts, ("--resume",))):
        steps = () if more == ("--num-steps-stop", "2") else ("--num-steps-stop", "4")
        result = run_in(world, "train_ms", *flags, *more, *steps, "--snapshot-dir", folder)
        assert result.returncode == 0, result.stderr
    states = [torch.load(folder / "training_state.pt", weights_only=True) for folder in (whole, parts)]
    assert any(key.startswith("heads.") for key in states[0]["trainer"]["networks"])
    assert_equal(states[1]["trainer"], states[0]["trainer"])
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert all(line["pixel"] > 1 for line in lines)
    snapshot = torch.load(whole / "GTA5_4.pth", weights_only=True)
    assert snapshot.keys() == DeeplabMulti(19, arch="mini").state_dict().keys()

    result = run_in(world, "train_ms", *flags, "--resume", "--lambda-pixel", "0", "--snapshot-dir", parts)
    one_line_error(result, "--lambda-pixel", "0.1", "parts")


def test_a_crop_without_enough_cells_is_one_line(world, run_main):
    result = run_main("train_ms", *TRAINING, "--lambda-pixel", "0.1")
    one_line_error(result, "--lambda-pixel", "100", "45", "64,32")


def test_the_contrast_adds_at_most_a_tenth_to_the_count_of_a_step():
    args = stage_args("stage1", "bf16", checkpointing=False)
    without = 18.9e12  # see test_memory_and_flops_of_the_published_step
    assert 1.04 < count("stage1", Namespace(**vars(args) | {"lambda_pixel": 0.1})).flops / without < 1.10
