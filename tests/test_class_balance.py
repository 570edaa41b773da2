"""Class-balanced pseudo labels and CRST's losses against reference values of the released code.

Every input is rebuilt by its name (golden/inputs.py).
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.transforms import offset_around
from tests.golden import inputs
from utils.class_balance import (
    ThresholdSearch,
    class_scores,
    class_threshold,
    hard_labels,
    hard_of_soft,
    image_score,
    mined_classes,
    soft_labels,
)
from utils.losses import segmentation_loss, uniform_divergence

GOLDEN = [json.loads((Path(__file__).parent / f"golden/crst_{x}.json").read_text()) for x in "AB"]
IGNORED = 255


def probabilities(settings: dict) -> list[torch.Tensor]:
    """The probabilities of each image of the reference values, (C, H, W) float32."""
    classes, size, tag = settings["num_classes"], settings["size"], settings["tag"]
    found = []
    for index in range(settings["images"]):
        z = inputs.draw(f"{tag}_z{index}", (classes, *size)).double() * settings["noise"]
        label = inputs.label_blocks(f"{tag}_l{index}", 1, *size, classes, skew=settings["skew"])[0]
        for c in range(classes):
            z[c][label == c] += settings["signal"]
        z[settings["absent"]] -= 40
        found.append(z.softmax(0).float())
    return found


@pytest.mark.parametrize("golden", [g["labels"] for g in GOLDEN], ids="AB")
def test_thresholds_and_labels_are_those_of_the_released_code(golden):
    settings = golden["settings"]
    images = probabilities(settings)
    scores = [class_scores(p, settings["ds_rate"]) for p in images]
    of_class = [torch.cat(parts) for parts in zip(*scores, strict=True)]
    assert [len(s) for s in of_class] == golden["scores_kept"]
    thresholds = torch.stack([class_threshold(s, settings["portion"]) for s in of_class])
    assert thresholds.tolist() == golden["thresholds"]  # to the last bit
    pixels = sum(torch.bincount(p.argmax(0).flatten(), minlength=len(p)) for p in images)
    assert pixels.tolist() == golden["predicted_pixels"]
    assert mined_classes(pixels, settings["mine_port"]) == golden["mine_id"]
    alpha = settings["lr_weight_ent"]
    for p, expected in zip(images, golden["images"], strict=True):
        label = hard_labels(p, thresholds)
        if alpha:
            soft = soft_labels(p, thresholds, alpha)
            label = hard_of_soft(soft)
            mass = soft.double().sum((1, 2)).tolist()
            assert mass == pytest.approx(expected["soft_mass_of_class"], rel=1e-6, abs=1e-9)
            assert soft.double().square().sum().item() == pytest.approx(expected["soft_square_sum"], rel=1e-6)
        assert zlib.crc32(label.numpy().tobytes()) == expected["crc32"]
        assert (label == IGNORED).sum() == expected["ignored"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("golden", [g["losses"] for g in GOLDEN], ids="AB")
def test_losses_and_their_gradients_are_those_of_the_released_code(golden):
    settings = golden["settings"]
    tag, images, classes, size = (settings[k] for k in ("tag", "images", "num_classes", "size"))
    drawn = inputs.draw(f"{tag}_pred", (images, classes, *size), settings["scale"]).double()
    labels = inputs.label_blocks(f"{tag}_lab", images, *size, classes)
    r = torch.tensor(settings["reg_weights"], dtype=torch.float32).double()
    ignored = labels == IGNORED
    one_hot = torch.eye(classes)[labels.masked_fill(ignored, 0)].movedim(3, 1)
    soft = inputs.draw(f"{tag}_soft", (images, classes, *size), 2).double().softmax(1)
    soft = torch.where((r == 0)[:, None, None, None], one_hot, soft) * ~ignored[:, None]
    for kind, target, beta in (
        ("hard", labels, settings["mr_weight_kld"]),
        ("soft", soft, settings["mr_weight_kld_soft"]),
    ):
        for suffix, weight in (("", beta), ("_without_regulariser", 0)):
            expected, z = golden[kind + suffix], drawn.clone().requires_grad_()
            loss = segmentation_loss(z, target, torch.ones(classes))
            loss = loss + weight * uniform_divergence(z, labels, r)
            (gradient,) = torch.autograd.grad(loss, z)
            assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
            assert gradient.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-9)
            assert gradient.abs().sum().item() == pytest.approx(expected["grad_abs_sum"], rel=1e-9)
            of_images = gradient.flatten(1).norm(dim=1).tolist()
            assert of_images == pytest.approx(expected["grad_norm_per_image"], rel=1e-9)


def test_mined_crops_are_centred_on_their_pixel_and_stay_inside():
    golden = GOLDEN[0]["mined_crops"]
    for case in golden["cases"]:
        found = offset_around(case["pixel"], golden["crop"], golden["image"])
        assert list(found) == case["offset"]


def test_losses_without_a_labelled_pixel_are_0():
    z, nothing = torch.randn(2, 3, 4, 5, requires_grad=True), torch.full((2, 4, 5), IGNORED)
    loss = segmentation_loss(z, torch.zeros(2, 3, 4, 5), torch.ones(3))
    loss = loss + uniform_divergence(z, nothing, torch.ones(2))
    loss = loss + uniform_divergence(z, torch.zeros_like(nothing), torch.zeros(2))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, z)[0].any()


def test_class_weights_apply_to_soft_labels_as_to_hard_ones(float64):
    z, weight = torch.randn(2, 3, 4, 5), torch.tensor([1.0, 3.0, 0.5])
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, 0] = IGNORED
    one_hot = torch.eye(4)[labels.clamp(max=3)].movedim(3, 1)[:, :3]
    for hard in (0, 50):
        expected = segmentation_loss(z, labels, weight, IGNORED, hard)
        assert segmentation_loss(z, one_hot, weight, IGNORED, hard).item() == pytest.approx(expected.item())


def test_soft_labels_in_single_precision_count_as_whole_pixels(float64):
    """Their sums over the classes are 1 but for rounding, which must not enter a loss in double precision."""
    z, p = torch.randn(2, 19, 9, 11), torch.randn(2, 19, 9, 11).softmax(1).float()
    labels = torch.stack([soft_labels(image, torch.full((19,), 0.2), 0.25) for image in p])
    expected = -(labels * z.log_softmax(1)).sum() / (labels.sum(1) > 0).sum()
    loss = segmentation_loss(z, labels, torch.ones(19))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("portion", [0.0, 0.004, 0.2, 1.0])
def test_the_thresholds_of_a_set_are_exact_without_its_scores_in_memory(portion):
    generator = np.random.default_rng(3)
    images = []
    for number in (40, 1, 3000):  # of very different confidence, with equal scores among them
        scores = [generator.random(number) ** k for k in (0.02, 1, 3)]
        scores[1][::3] = np.float32(0.7)
        images.append([torch.from_numpy(s.astype(np.float32)) for s in (*scores, scores[0][:0])])
    search = ThresholdSearch(4, portion)
    found = search.thresholds(lambda: iter(images))
    together = [torch.cat(parts) for parts in zip(*images, strict=True)]
    assert torch.equal(found, torch.stack([class_threshold(s, portion) for s in together]))
    assert search.numbers == [3041, 3041, 3041, 0]
    assert found[3] == 1
    assert search.ranks == [int(3041 * portion)] * 3 + [0]


def test_hard_labels_prefer_a_class_that_is_confident_for_its_kind():
    p = torch.tensor([[0.7, 0.5, 0.55], [0.3, 0.5, 0.45]])[:, None]
    label = hard_labels(p, torch.tensor([0.8, 0.25]))
    assert label.tolist() == [[1, 1, 1]]
    assert hard_labels(p, torch.tensor([0.7, 0.9])).tolist() == [[0, IGNORED, IGNORED]]  # 0.7 itself is in


def test_soft_labels_become_hard_ones_as_alpha_goes_to_0():
    p = torch.randn(5, 20, 30).mul(3).softmax(0)
    thresholds = torch.tensor([0.9, 0.8, 0.5, 0.95, 1.0])
    soft = soft_labels(p, thresholds, 1e-3)
    assert torch.equal(hard_of_soft(soft), hard_labels(p, thresholds))
    total = soft.sum(0)
    assert ((total - 1).abs() < 1e-6)[total > 0].all()


def test_the_score_of_an_image_counts_every_predicted_class_equally():
    p = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.6], [0.0, 0.0, 0.3]])[:, None]
    assert image_score(p) == pytest.approx((0.85 + 0.6) / 2)


def test_mined_classes_are_rare_or_never_predicted():
    assert mined_classes(torch.tensor([100000, 99, 101, 0]), 1e-3) == [1, 3]
    assert mined_classes(torch.zeros(3, dtype=torch.int64)) == [0, 1, 2]
    # Single precision takes 4123457 of so many pixels for less than a thousandth of them.
    for pixels in (4123456, 4123457):
        of_all = torch.tensor([pixels, 4123457000 - pixels])
        assert mined_classes(of_all) == ([0] if pixels < 4123457 else [])
