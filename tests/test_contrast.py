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
import trainer_st
from benchmarks.step import count, stage_args
from dataset import build_dataset, pairs
from dataset.pairs import PairDataset
from model.deeplab_multi import DeeplabMulti
from model.projection import PixelHead
from tests.conftest import TRAINING, one_line_error, run_in, save_png
from tests.golden import inputs
from tests.test_distributed import assert_same, run_processes
from tests.test_resume import assert_equal
from tests.test_trainers import NoReading, NoSynchronisation
from utils.contrast import (
    ANCHORS,
    PatchBank,
    View,
    choose_anchors,
    contrast_cells,
    cut_overlap,
    draw_cells,
    patch_contrast,
    pixel_contrast,
    uniform_draws,
)
from utils.distributed import SINGLE_PROCESS, Processes
from utils.options import stage1_args, stage2_args

GOLDEN = Path(__file__).parent / "golden"
PATCH = [json.loads((GOLDEN / f"pipa_patch_{number}.json").read_text()) for number in (1, 2)]
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
PATCHES = ("--lambda-patch", "0.1", "--patch-size", "48,64")
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


def views(number: int, part: slice = slice(None)) -> list[View]:
    """Two views of each image that share half of their cells, the second one sometimes mirrored."""
    generator = torch.Generator().manual_seed(100 + number)
    images = torch.randn(2, 3, 3, 64, 48, generator=generator)[:, part].to(torch.get_default_dtype()) * 50
    flips = [[False] * 3, [False, True, False]]
    corners = ((0, 16), (64, 48)), ((0, 0), (64, 32))
    each = zip(images, corners, flips, strict=True)
    return [View(image, [corner] * len(image), flip[part]) for image, corner, flip in each]


def step(trainer, i_iter: int, part: slice = slice(None)) -> dict:
    """The losses of an iteration on this part of each of its batches."""
    trainer.adjust_learning_rates(i_iter)
    for number in range(trainer.args.iter_size):
        update = number + 1 == trainer.args.iter_size
        number += i_iter * trainer.args.iter_size
        pair = views(number, part) if trainer.args.lambda_patch else ()
        losses, predictions = trainer.gen_update(*batch(number, part), i_iter, update=update, views=pair)
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
    trainer = build(stage, *PATCHES)
    batches = [batch(number) for number in range(2)]
    trainer.gen_update(*batches[0], 0, views=views(0))
    with NoSynchronisation(), NoReading():
        trainer.gen_update(*batches[1], 1, views=views(1))


def train(processes: Processes) -> dict:
    """Two steps on this process's part of the batches, and what they leave."""
    trainer = build(1, "--sync_bn", "--iter-size", "2", *PATCHES)
    trainer.distribute(processes)
    shard = processes.shard(3)
    losses = [step(trainer, i_iter, slice(shard.start, shard.stop)) for i_iter in range(2)]
    return {"losses": losses, "networks": trainer.state_dict()}


def test_two_processes_contrast_as_one_does(tmp_path, float64, one_thread):
    expected = train(SINGLE_PROCESS)
    assert all(losses["pixel"] > 1 and losses["patch"] > 1 for losses in expected["losses"])
    assert expected["networks"]["bank.added"].tolist() == [2 * 3 * 9 * 7] * 3
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
    flags += (*PATCHES, "--patch-start", "1", "--restore-from", tmp_path / "sure.pth")
    sure = DeeplabMulti(19, arch="mini").state_dict()
    sure["layer6.head.1.weight"].normal_()
    torch.save(sure, tmp_path / "sure.pth")
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
    assert [line["patch"] > 0 for line in lines] == [False, True, True, True]
    snapshot = torch.load(whole / "GTA5_4.pth", weights_only=True)
    assert snapshot.keys() == DeeplabMulti(19, arch="mini").state_dict().keys()

    result = run_in(world, "train_ms", *flags, "--resume", "--lambda-pixel", "0", "--snapshot-dir", parts)
    one_line_error(result, "--lambda-pixel", "0.1", "parts")


def test_sizes_of_views_that_cannot_be_are_one_line(world, run_main):
    flags = ("--lambda-patch", "0.1", "--patch-size")
    one_line_error(run_main("train_ms", *TRAINING, *flags, "32,20"), "--patch-size", "multiples of 8")
    one_line_error(run_main("train_ms", *TRAINING, *flags, "64,32"), "--patch-size", "57,32")


def test_a_crop_without_enough_cells_is_one_line(world, run_main):
    result = run_main("train_ms", *TRAINING, "--lambda-pixel", "0.1")
    one_line_error(result, "--lambda-pixel", "100", "45", "64,32")


def test_the_contrast_adds_at_most_a_tenth_to_the_count_of_a_step():
    args = stage_args("stage1", "bf16", checkpointing=False)
    without = 19.43e12  # counted likewise
    assert 1.04 < count("stage1", Namespace(**vars(args) | {"lambda_pixel": 0.1})).flops / without < 1.10


# Patch contrast


@pytest.mark.parametrize("golden", PATCH, ids=["thousands", "few"])
def test_patch_losses_and_gradients_are_those_of_the_released_code(golden, float64):
    settings = golden["setting"]
    images, _, *size = settings["embedding"]
    bank = PatchBank()
    for number, expected in enumerate(golden["steps"]):
        raw = [
            inputs.draw(f"pipa_e{v}_{number}", settings["embedding"]).double().requires_grad_()
            for v in (1, 2)
        ]
        embeddings = [F.normalize(e) for e in raw]
        logits = [
            inputs.draw(f"pipa_l{v}_{number}", (images, settings["classes"], *size), settings["sharp"])
            for v in (1, 2)
        ]
        confidence, classes = zip(*(z.double().softmax(1).max(1) for z in logits), strict=True)
        chosen = [
            inputs.draw(f"pipa_choice{number}_{v}", (classes[v].numel(),)).argsort()[: settings["selected"]]
            for v in (0, 1)
        ]
        flat = [e.movedim(1, 3).flatten(0, 2) for e in embeddings]
        bank.add(
            torch.cat([e[c] for e, c in zip(flat, chosen, strict=True)]),
            torch.cat([y.flatten()[c] for y, c in zip(classes, chosen, strict=True)]),
        )
        overlap, flip = settings["overlap"][number], settings["flip"][number]
        corners = [[image[2 * v : 2 * v + 2] for image in overlap] for v in (0, 1)]

        def cut(maps, corners=corners, flip=flip):
            return [cut_overlap(m, c, f) for m, c, f in zip(maps, corners, flip, strict=True)]

        e1, e2 = cut(embeddings)
        y1, y2 = (y[:, 0] for y in cut([y[:, None] for y in classes]))
        c1, c2 = (c[:, 0] for c in cut([c[:, None] for c in confidence]))
        options = bank, settings["threshold"]
        loss1, loss2 = (
            patch_contrast(e1, e2, y1, c1, c2, *options),
            patch_contrast(e2, e1, y2, c2, c1, *options),
        )
        (loss1 + loss2).backward()
        assert len(e1) == expected["overlap_pixels"] and len(bank.classes) == expected["negatives"]
        assert loss1.item() == pytest.approx(expected["loss1"], rel=1e-6)
        assert loss2.item() == pytest.approx(expected["loss2"], rel=1e-6)
        for e, name in zip(raw, ("grad_norm1", "grad_norm2"), strict=True):
            assert e.grad.norm().item() == pytest.approx(expected[name], rel=1e-6)


def ramp_pairs(tmp_path) -> PairDataset:
    """Views of an image whose red and green tell the column and the row."""
    rows, columns = np.mgrid[:128, :256].astype(np.uint8)
    for name in ("a", "b"):
        save_png(
            tmp_path / "leftImg8bit" / "train" / name / f"{name}_0_0_leftImg8bit.png",
            np.stack([columns, rows, 0 * rows], 2),
        )
    images = build_dataset("cityscapes", tmp_path, labelled_stream=False)
    return PairDataset(images, (128, 256), (64, 96))


def test_both_views_show_the_same_in_their_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "recolour", lambda view, rng: view)
    monkeypatch.setattr(pairs, "SCALES", (1, 1))
    dataset, flips, shared = ramp_pairs(tmp_path), set(), []
    for seed in range(40):
        sample = dataset.sample(0, np.random.default_rng(seed))
        shown = []
        for view, corners, flip in zip(sample["image"], sample["corners"], sample["mirrored"], strict=True):
            assert view.shape == (64, 96, 3)
            # A cell per 8 pixels, as in the network; mirrored cells are one pixel off.
            cells = view[None, ::8, (7 if flip else 0) :: 8].permute(0, 3, 1, 2)
            shown.append(cut_overlap(cells, [corners.tolist()], [bool(flip)]))
        assert torch.equal(*shown), seed
        flips.add(tuple(sample["mirrored"].tolist()))
        shared.append(len(shown[0]))
    assert len(flips) == 4
    assert min(shared) >= 0.1 * 96 and max(shared) > 60 and len(set(shared)) > 10


def test_a_pair_depends_only_on_its_draws_and_is_recoloured(tmp_path):
    dataset = ramp_pairs(tmp_path)
    torch.manual_seed(0)
    one, drawn = dataset.sample(1, np.random.default_rng(5)), torch.rand(1)
    torch.manual_seed(1)
    two = dataset.sample(1, np.random.default_rng(5))
    assert all(torch.equal(one[key], two[key]) for key in one)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
    colours = [dataset.sample(1, np.random.default_rng(seed))["image"][..., 2] for seed in range(8)]
    assert any(blue.any() for blue in colours) and not all(blue.any() for blue in colours)


def test_the_patch_loss_trains_the_network(float64, one_thread):
    trainer = build(1, *PATCHES, weight=0)
    plain, (one, two) = copy.deepcopy(trainer), views(0)
    losses = trainer.learn_from_views([one, two], last=True)
    embeddings, logits = zip(
        *(plain.segment(view.images, head="patch")[2:] for view in (one, two)), strict=True
    )
    confidence, classes = zip(*(z.softmax(1).max(1) for z in logits), strict=True)
    bank = PatchBank()  # fewer cells than a view may add: it holds all of them
    bank.add(
        torch.cat([e.movedim(1, 3).flatten(0, 2) for e in embeddings]).detach(),
        torch.cat([y.flatten() for y in classes]),
    )

    def cut(maps, view):
        return cut_overlap(maps.view(3, -1, 9, 7), view.corners, view.mirrored)

    e_1, e_2 = cut(embeddings[0], one), cut(embeddings[1], two)
    (y_1, y_2), (c_1, c_2) = ((cut(x[0], one)[:, 0], cut(x[1], two)[:, 0]) for x in (classes, confidence))
    loss = patch_contrast(e_1, e_2, y_1, c_1, c_2, bank) + patch_contrast(e_2, e_1, y_2, c_2, c_1, bank)
    assert losses["patch"].item() == pytest.approx(loss.item(), rel=1e-9) and loss > 1
    (0.1 * loss).backward()
    assert plain.G.conv1.weight.grad.norm() > 0 and plain.heads["patch"].layers[0].weight.grad.norm() > 0
    for (key, p), q in zip(plain.named_parameters(), trainer.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-7, atol=1e-11, msg=key)


def test_the_bank_holds_the_latest_steps_and_comes_back_from_its_state():
    bank = PatchBank(steps=2)
    for number, size in enumerate((3, 5, 2)):
        bank.add(torch.full((size, 4), number), torch.full((size,), number))
        assert bank.classes.tolist() == [
            n for n, k in ((0, 3), (1, 5), (2, 2)) if number - 2 < n <= number for _ in range(k)
        ]
    again = PatchBank(steps=2)
    again.load_state_dict(copy.deepcopy(bank.state_dict()))
    for each in (bank, again):
        each.add(torch.full((1, 4), 3), torch.full((1,), 3))
        assert each.classes.tolist() == each.embeddings[:, 0].tolist() == [2, 2, 3]


def test_the_banks_cells_are_those_of_lowest_rank_over_all_processes():
    embeddings, classes = torch.randn(3, 4, 30, 40), torch.randint(9, (3, 1, 30, 40))
    rank = torch.rand(3, 30, 40)  # for 3600 cells
    drawn, drawn_classes = draw_cells(embeddings, classes, rank)
    lowest = rank.flatten().argsort()[:1600]
    assert torch.equal(drawn, embeddings.movedim(1, 3).reshape(-1, 4)[lowest])
    assert torch.equal(drawn_classes, classes.flatten()[lowest])

    class Unsummed(Processes):
        def all_reduce_sum(self, tensor):
            return tensor

    parts = [Unsummed(rank=number, world_size=2) for number in range(2)]
    found = [
        draw_cells(
            embeddings[p.shard(3).start : p.shard(3).stop],
            classes[p.shard(3).start : p.shard(3).stop],
            rank,
            p,
        )
        for p in parts
    ]
    assert torch.equal(found[0][0] + found[1][0], drawn)
    assert torch.equal(found[0][1] + found[1][1], drawn_classes)


def test_dataparallel_splits_the_contrasted_batch(monkeypatch, one_thread):
    def in_turn(module, images, device_ids):
        parts = [module(part) for part in images.chunk(len(device_ids))]
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    monkeypatch.setattr(torch.nn.parallel, "data_parallel", in_turn)
    trainer = build(1, *PATCHES).eval()
    for head in trainer.heads:
        trainer.device_ids = [0]
        alone = trainer.segment(batch(0)[0], head=head)
        trainer.device_ids = [0, 1]
        for one, two in zip(alone, trainer.segment(batch(0)[0], head=head), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)


def test_contrasts_go_with_online_self_training(one_thread):
    flags = f"{FLAGS} {LEARNING} {' '.join(PATCHES)} --self-training --lambda-pixel 0.1"
    torch.manual_seed(0)
    trainer = trainer_st.AD_Trainer(stage1_args(flags.split()))
    torch.nn.init.normal_(trainer.G.layer6.head[1].weight, std=0.5)
    losses = step(trainer, 0)
    assert losses["pixel"] > 1 and losses["patch"] > 1 and losses["mix2"] > 0
    assert trainer.bank.added.tolist() == [2 * 3 * 9 * 7]
