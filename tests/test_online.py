"""Online self-training: reference values of the released functions, and what a user would notice."""

import copy
import json
import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torchvision.transforms import functional

from dataset.augment import blur, jitter
from model import deeplab_multi
from model.projection import LastStage
from model.weights import WeightsError
from report.curves import charts
from tests.conftest import ROOT, TRAINING, describe, one_line_error
from tests.golden import inputs
from tests.test_golden import close
from tests.test_trainers import HEIGHT, NOT_ADVERSARIAL, REGULARISED, WIDTH, batch, build
from trainer_st import AD_Trainer
from utils.distributed import Processes
from utils.options import stage1_args
from utils.self_training import (
    block_mask,
    class_mask,
    draw_classes,
    feature_distance,
    label_target,
    mix,
    present_classes,
    pseudo_labels,
    update_teacher,
    weighted_cross_entropy,
)
from utils.upsampling import upsample

GOLDEN = Path(__file__).parent / "golden"
SELF_TRAINING = f"--self-training --jitter-chance 0 --blur-chance 0 --lambda-seg 0.5 {NOT_ADVERSARIAL}"
CLASSES = 7


def draw(name: str, shape: tuple, scale: float = 1.0) -> torch.Tensor:
    return inputs.draw(name, shape, scale).double()


def uniform(name: str, shape: tuple) -> torch.Tensor:
    return torch.special.ndtr(draw(name, shape))


def crc(values: torch.Tensor) -> int:
    return zlib.crc32(values.to(torch.uint8).numpy().tobytes())


def sums(values: torch.Tensor) -> list[float]:
    return [values.sum().item(), values.abs().sum().item()]


def ranks_of(labels: torch.Tensor, name: str, classes: int) -> torch.Tensor:
    """Reference numbers of the classes present, as `draw_classes` takes them."""
    present = present_classes(labels, classes)
    ranks = torch.full((classes + 1,), 9.0)
    ranks[present] = draw(name, (int(present.sum()),))
    return ranks


@pytest.fixture(params=[1, 2])
def functions(request, float64) -> tuple[dict, dict]:
    """Settings and results of the released functions."""
    reference = json.loads((GOLDEN / f"online_{request.param}.json").read_text())
    return reference["settings"], reference["results"]


def test_labels_mixed_and_masked_images_are_the_released_ones(functions):
    settings, results = functions
    tag, classes = settings["tag"], settings["classes"]
    images, size = settings["images"], tuple(settings["size"])
    source, target = (draw(tag + name, (images, 3, *size), 50) for name in ("_im", "_imt"))
    labels = inputs.label_blocks(tag + "_lab", images, *size, classes, settings["skew"])
    logits = draw(tag + "_teacher", (images, classes, *size), settings["sharp"])
    options = settings["threshold"], settings["top"], settings["bottom"]
    pseudo, weight = pseudo_labels(logits, *options)
    assert crc(pseudo) == results["pseudo"]["labels_crc32"]
    assert sums(weight) == close(results["pseudo"]["weight_sums"])
    assert label_target(logits, *options)[2].item() == close(results["pseudo"]["share"])

    expected, masks = results["mix_image"], []
    for image, label in enumerate(labels):
        ranks = ranks_of(label, f"{tag}_rank{image}", classes)
        chosen = draw_classes(present_classes(label, classes), ranks)
        named = [index if index < classes else 255 for index in chosen.nonzero()[:, 0].tolist()]
        assert named == expected["classes"][image]
        masks.append(class_mask(label, chosen))
    mask = torch.stack(masks)
    assert crc(mask) == expected["mask_crc32"]
    assert sums(mix(mask, source, target)) == close(expected["image_sums"])
    mixed, mixed_weight = mix(mask, labels, pseudo), mix(mask, torch.ones_like(weight), weight)
    assert crc(mixed) == expected["label_crc32"]
    assert sums(mixed_weight) == close(expected["weight_sums"])
    check_loss(tag + "_mixed", logits.shape, mixed, mixed_weight, expected)

    expected = results["masked"]
    noise = uniform(tag + "_noise", tuple(expected["grid"]))
    keep = block_mask(noise, size, settings["mask_ratio"])
    assert crc(keep) == expected["keep_crc32"]
    assert sums(keep * target) == close(expected["image_sums"])
    check_loss(tag + "_masked", logits.shape, pseudo, weight, expected)


def check_loss(name: str, shape: tuple, labels: torch.Tensor, weight: torch.Tensor, expected: dict) -> None:
    logits = draw(name, tuple(shape), 2).requires_grad_()
    loss = weighted_cross_entropy(logits, labels, weight)
    loss.backward()
    assert loss.item() == close(expected["loss"])
    assert logits.grad.norm().item() == close(expected["grad_norm"])


def test_the_teacher_averages_parameters_as_released_and_leaves_its_statistics(functions):
    settings, results = functions

    def network(name: str) -> nn.Module:
        layers = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
        network = nn.Sequential(*layers)
        network.load_state_dict(inputs.weights(network.state_dict(), name))
        return network

    teacher = network(settings["tag"] + "_t")
    for expected in results["ema"]:
        i_iter = expected["iteration"]
        update_teacher(teacher, network(f"{settings['tag']}_s{i_iter}:"), i_iter, settings["alpha"])
        state = teacher.state_dict()
        for name, value in (expected["parameters"] | expected["buffers"]).items():
            assert sums(state[name]) == close(value), name


@pytest.mark.parametrize(
    ("kind", "suffix"), [("feature_distance", ""), ("feature_distance_centred", "1")], ids=["", "centred"]
)
def test_the_feature_distance_is_the_released_one(functions, kind, suffix):
    settings, results = functions
    tag, classes, stride = settings["tag"], settings["classes"], settings["stride"]
    images, (height, width) = settings["images"], settings["size"]
    coarse = inputs.label_blocks(tag + "_fdlab", images, height // 4, width // 4, classes, settings["skew"])
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    changed = uniform(tag + "_fdnoise", labels.shape) < settings["fd_noise"]
    labels = torch.where(changed, (labels + 7) % classes, labels)
    more = int(suffix or 0)
    shape = images, settings["channels"], height // stride + more, width // stride + more
    features = draw(tag + "_feat" + suffix, shape).requires_grad_()
    reference = draw(tag + "_ref" + suffix, shape)
    loss = feature_distance(features, reference, labels, settings["fd_classes"], settings["fd_share"])
    loss.backward()
    assert loss.item() == close(results[kind]["loss"])
    assert features.grad.norm().item() == close(results[kind]["grad_norm"])
    assert feature_distance(features, reference, labels.fill_(255), [0, 1]).item() == 0


@pytest.mark.parametrize("centred", [None, True], ids=["found", "said"])
def test_cells_of_the_network_lie_around_every_eighth_pixel_of_any_crop(centred, float64):
    numbers = torch.Generator().manual_seed(0)
    # 8 cells divide 56 pixels too, in windows of 7.
    labels = torch.randint(3, (1, 56, 56 if centred else 96), generator=numbers) // 2
    rows, columns = (range(0, side + 1, 8) for side in labels.shape[1:])
    features, reference = torch.randn(2, 1, 4, len(rows), len(columns), generator=numbers)
    cells = [[labels[0, max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] for x in columns] for y in rows]
    counted = torch.tensor([[(cell == 0).double().mean() >= 0.75 for cell in row] for row in cells])
    expected = (features - reference).norm(dim=1)[0][counted].mean()
    assert 0 < counted.sum() < counted.numel()
    found = feature_distance(features, reference, labels, [0], 0.75, 255, centred=centred)
    assert found.item() == close(expected.item())
    assert feature_distance(features, reference, labels, []) == 0


@pytest.mark.parametrize("number", [1, 2])
def test_whole_steps_are_the_released_ones_on_this_network(number, float64, one_thread):
    reference = json.loads((GOLDEN / f"online_steps_{number}.json").read_text())
    settings = reference["settings"]
    tag, classes, size = settings["tag"], settings["classes"], settings["size"]
    flags = f"--restore-from none --cpu --arch mini --droprate 0 {SELF_TRAINING}".split() + settings["argv"]
    trainer = AD_Trainer(stage1_args(flags))
    trainer.G.load_state_dict(inputs.weights(trainer.G.state_dict()))

    def numbers(purpose: str, i_iter: int, image: int, shape: tuple) -> torch.Tensor:
        if purpose == "classes":
            return ranks_of(labels[image], f"{tag}_rank{i_iter}_{image}", classes)
        return uniform(f"{tag}_noise{i_iter}_{image}", shape)

    trainer.random_numbers = numbers
    for i_iter, expected in enumerate(reference["steps"]):
        images, images_t = (draw(f"{tag}_{kind}{i_iter}", (2, 3, *size), 50) for kind in ("im", "imt"))
        labels = inputs.label_blocks(f"{tag}_lab{i_iter}", 2, *size, classes, settings["skew"])
        trainer.adjust_learning_rates(i_iter)
        losses, _ = trainer.gen_update(images, images_t, labels, None, i_iter)
        assert {name: losses[name].item() for name in expected["losses"]} == close(expected["losses"])
        for module in ("G", "teacher"):
            state = getattr(trainer, module).state_dict()
            for name, value in expected[module].items():
                assert sums(state[name]) == close(value), name


def test_the_first_teacher_is_the_student_and_later_ones_do_not_learn(one_thread):
    trainer = build(3, f"{SELF_TRAINING} --teacher-alpha 0.5", droprate=0.3)
    first = {name: p.clone() for name, p in trainer.G.named_parameters()}
    trainer.gen_update(*batch(0), 0)
    assert all(torch.equal(p, first[name]) for name, p in trainer.teacher.named_parameters())
    second = {name: p.clone() for name, p in trainer.G.named_parameters()}
    trainer.gen_update(*batch(1), 1)
    for name, p in trainer.teacher.named_parameters():
        torch.testing.assert_close(p, (first[name] + second[name]) / 2)
        assert p.grad is None
    snapshot = trainer.teacher_snapshot()
    assert list(snapshot) == list(trainer.G.state_dict())
    assert torch.equal(snapshot["bn1.running_mean"], trainer.G.bn1.running_mean)


def test_a_sure_teacher_weighs_all_pixels_fully_and_an_unsure_one_leaves_the_pasted_ones():
    logits = torch.randn(2, CLASSES, 6, 8, generator=torch.Generator().manual_seed(0))
    for gain, share in ((1000, 1), (0.01, 0)):
        labels, weight, found = label_target(gain * logits, 0.968)
        assert torch.equal(labels, logits.argmax(1))
        assert found == share and (weight == share).all()
    learned = logits.clone().requires_grad_()
    pasted = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    weighted_cross_entropy(learned, labels, mix(pasted, torch.ones_like(weight), weight)).backward()
    assert torch.equal(learned.grad.abs().sum(1) > 0, pasted)


def test_the_share_has_the_precision_of_the_logits():
    logits = torch.randn(1, CLASSES, 7, 11, generator=torch.Generator().manual_seed(0)).double()
    confident = (logits.softmax(1).amax(1) >= 0.3).double()
    assert (pseudo_labels(logits, 0.3)[1] == confident.mean()).all()


def test_the_five_weights_are_what_they_say():
    logits = torch.randn(2, CLASSES, 6, 8, generator=torch.Generator().manual_seed(0)) * 2
    divergence = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1))
    sure = logits.softmax(1).amax(1) >= 0.6
    share, uncertainty = sure.float().mean(), torch.exp(-divergence)
    expected = {
        "share": share.expand_as(sure),
        "pixel": sure.float(),
        "none": torch.ones(2, 6, 8),
        "uncertainty": uncertainty,
        "both": share * uncertainty,
    }
    for weighting, weight in expected.items():
        found = label_target(logits, 0.6, 1, 2, weighting, divergence)[1]
        assert (found[:, [0, -1, -2]] == 0).all()
        torch.testing.assert_close(found[:, 1:-2], weight[:, 1:-2])


def test_the_share_and_the_feature_distance_are_those_of_the_batch_of_all_processes(float64):
    numbers = torch.Generator().manual_seed(0)
    logits = torch.randn(3, CLASSES, 16, 24, generator=numbers) * 3
    labels = torch.randint(CLASSES, (3, 2, 3), generator=numbers)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    features, reference = torch.randn(2, 3, 5, 2, 3, generator=numbers)
    sent = []

    class First(Processes):
        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            sent.append(tensor)
            return tensor

    class Both(Processes):
        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            return sent[0] + sent[1]

    whole = label_target(logits, 0.8)[2]
    parts = slice(0, 1), slice(1, 3)
    for part in parts:
        label_target(logits[part], 0.8, across=First())
    for part in parts:
        assert label_target(logits[part], 0.8, across=Both())[2] == whole
    sent.clear()
    maps = features, reference, labels
    for part in parts:
        feature_distance(*(x[part] for x in maps), [1, 2, 3], across=First())
    shares = [feature_distance(*(x[part] for x in maps), [1, 2, 3], across=Both()) for part in parts]
    assert sum(shares).item() == close(feature_distance(*maps, [1, 2, 3]).item())
    assert all(share > 0 for share in shares)


def test_colour_is_jittered_as_torchvision_does_in_the_order_that_is_drawn(float64):
    class Drawn:
        def uniform(self, low: float, high: float, number: int) -> list[float]:
            assert (low, high, number) == (0.75, 1.25, 4)
            return [1.2, 0.8, 1.25, 0.9]

        def permutation(self, number: int) -> list[int]:
            return [3, 0, 2, 1]

    image = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    expected = functional.adjust_brightness(functional.adjust_hue(image, -0.1), 1.2)
    expected = functional.adjust_contrast(functional.adjust_saturation(expected, 1.25), 0.8)
    torch.testing.assert_close(jitter(image[None], 0.25, [Drawn()])[0], expected)


def test_each_image_is_blurred_by_its_own_sigma(float64):
    images = torch.rand(3, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    blurred = blur(images, torch.tensor([0.0, 0.4, 1.0]))
    for image, sigma, found in zip(images, (0.15, 0.55, 1.15), blurred, strict=True):
        expected = functional.gaussian_blur(image, [51, 51], [sigma, sigma])  # as wide as released
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_a_step_jitters_or_blurs_its_whole_batch_by_their_chances(monkeypatch):
    seen = {"jitter": [], "blur": []}
    for name, found in seen.items():
        keep = lambda rgb, *how, found=found: found.append((rgb, how)) or rgb  # noqa: E731
        monkeypatch.setattr(f"trainer_st.{name}", keep)
    trainer, (images, *_) = build(3, "--self-training --jitter 0.25"), batch(0)
    for trainer.i_iter in range(300):
        torch.testing.assert_close(trainer._augment(images, "mixed"), images)
    assert [len(found) / 300 for found in seen.values()] == pytest.approx([0.8, 0.5], abs=0.08)
    assert all(
        len(rgb) == len(how[-1]) == 2 and 0 <= rgb.min() <= rgb.max() <= 1 for rgb, how in seen["jitter"]
    )
    assert {how[0] for _, how in seen["jitter"]} == {0.25}


def test_an_image_of_one_class_is_pasted_whole():
    labels = torch.full((6, 8), 3)
    chosen = draw_classes(present_classes(labels, CLASSES), torch.rand(CLASSES + 1))
    assert chosen.nonzero().tolist() == [[3]]
    assert class_mask(labels, chosen).all()


def test_masking_goes_with_stage_1_alone(one_thread):
    trainer = build(1, "")
    expected = trainer.gen_update(*batch(0), 0)[0]
    trainer = build(3, "--lambda-mask 1 --mask-block 8")
    found, predictions = trainer.gen_update(*batch(0), 0)
    assert found.keys() - expected.keys() == {"masked1", "masked2", "share"}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
    assert found["masked2"] > 0
    trainer.dis_update(*predictions)


@pytest.mark.parametrize("weighting", ["none", "both"])
def test_without_target_losses_the_predictions_are_the_teachers(weighting, one_thread):
    trainer = build(3, f"{SELF_TRAINING} --pseudo-weight {weighting}")
    images, images_t, *labels = batch(0)
    _, predictions = trainer.gen_update(images, images_t, *labels, 0)
    with torch.no_grad():
        expected = trainer.segment(images_t, trainer.teacher)
    for found, logits in zip(predictions[2:], expected, strict=True):
        torch.testing.assert_close(found, logits)


@pytest.mark.parametrize("weighting", ["share", "pixel", "uncertainty"])
def test_everything_together_learns_the_weighted_sum_of_its_losses(weighting, float64, one_thread):
    """Beside adversaries and regularisers, written out without the order and the memory of a step."""
    flags = (
        "--self-training --lambda-mix 0.6 --lambda-mask 0.7 --mask-block 12 --lambda-fd 0.1 --fd-classes 3,5"
    )
    flags += f" {REGULARISED} --lambda-seg 0.5 --class-balance --jitter-chance 0 --blur-chance 0"
    trainer = build(3, f"{flags} --pseudo-threshold 0.3 --pseudo-weight {weighting}")
    trainer._reference.append(LastStage(copy.deepcopy(trainer.G).eval()))
    plain = copy.deepcopy(trainer)
    images, images_t, labels, _ = batch(0)
    found, _ = trainer.gen_update(images, images_t, labels, None, 0, update=False)

    with torch.no_grad():
        (reference,), (z1, z2) = plain._reference[0](images), plain.segment(images_t)  # the teacher is G
    p = (0.5 * z1 + z2).softmax(1)
    sure, pseudo = p.amax(1) >= 0.3, p.argmax(1)
    weight = {
        "share": sure.double().mean().expand_as(sure),
        "pixel": sure.double(),
        "uncertainty": torch.exp(-(z2.softmax(1) * (z2.log_softmax(1) - z1.log_softmax(1))).sum(1)),
    }[weighting]
    pasted, keep = torch.zeros_like(sure), torch.zeros_like(sure)
    for image, label in enumerate(labels):
        ranks = trainer.random_numbers("classes", 0, image, (CLASSES + 1,))
        present = sorted(label.unique().tolist(), key=lambda index: ranks[min(index, CLASSES)])
        pasted[image] = torch.isin(label, torch.tensor(present[: math.ceil(len(present) / 2)]))
        noise = trainer.random_numbers("mask", 0, image, (1, 3, 5))[0]
        keep[image] = noise[torch.arange(HEIGHT) * 3 // HEIGHT][:, torch.arange(WIDTH) * 5 // WIDTH] > 0.7

    def cross_entropies(name: str, images: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> dict:
        losses = [
            F.cross_entropy(z, labels, ignore_index=255, reduction="none") for z in plain.segment(images)
        ]
        return {f"{name}{k}": (loss * weight).mean() for k, loss in enumerate(losses, start=1)}

    mixed = torch.where(pasted[:, None], images, images_t), torch.where(pasted, labels, pseudo)
    *logits, joined = plain.G(images, features="input")
    plain.class_weight = plain.compute_class_weight(labels)
    groups = (
        *plain.segmentation_losses(*(upsample(z, images.shape[2:]) for z in logits), labels),
        *plain.target_losses(*plain.segment(images_t), 0),
        cross_entropies("mix", *mixed, torch.where(pasted, 1.0, weight)),
        cross_entropies("masked", images_t * keep[:, None], pseudo, weight),
    )
    terms = {name: term for group in groups for name, term in group.items()}
    stage4 = joined[:, : reference.shape[1]]
    terms["fd"] = feature_distance(stage4, reference, labels, [3, 5], centred=True)
    weights = dict(seg1=0.5, seg2=1, adv1=0.0002, adv2=0.001, me=0.05, kl=0.1, fd=0.1)
    weights |= dict(mix1=0.3, mix2=0.6, masked1=0.35, masked2=0.7)
    sum(weight * terms[name] for name, weight in weights.items()).backward()
    for name, term in terms.items():
        assert found[name].item() == close(term.item()) and term != 0, name
    for (name, p), q in zip(trainer.G.named_parameters(), plain.G.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_gradients_of_accumulated_batches_are_their_mean_for_one_move_of_the_teacher(float64, one_thread):
    flags = f"{SELF_TRAINING} --lambda-mask 1 --lambda-fd 0.1 --fd-classes 3"
    together, *parts = (build(3, f"{flags} --iter-size {n}") for n in (2, 1, 1))
    for trainer in (together, *parts):
        trainer._reference.append(LastStage(copy.deepcopy(trainer.G).eval()))
        trainer.teacher.load_state_dict(inputs.weights(trainer.G.state_dict()))
    for number, part in enumerate(parts):
        part.random_numbers = partial(later_image, part.random_numbers, 2 * number)
        for trainer in (together, part):
            trainer.gen_update(*batch(number), 1, update=False)
    for (name, p), *single in zip(*(t.G.named_parameters() for t in (together, *parts)), strict=True):
        if p.grad is not None:
            mean = (single[0][1].grad + single[1][1].grad) / 2
            torch.testing.assert_close(p.grad, mean, rtol=1e-9, atol=1e-12, msg=name)
    for p, q in zip(together.teacher.parameters(), parts[0].teacher.parameters(), strict=True):
        assert torch.equal(p, q)


def later_image(numbers: Callable, first: int, purpose: str, i_iter: int, image: int, shape: tuple):
    return numbers(purpose, i_iter, first + image, shape)


def test_a_state_between_the_first_updates_continues_exactly(one_thread):
    flags = f"--self-training --lambda-mask 1 {NOT_ADVERSARIAL}"
    whole, resumed = build(3, flags), build(3, flags)
    for i_iter in range(3):
        whole.gen_update(*batch(i_iter), i_iter)
        if i_iter == 0:
            resumed.load_training_state(copy.deepcopy(whole.training_state()))
        else:
            resumed.gen_update(*batch(i_iter), i_iter)
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.fixture(scope="module")
def initial(tmp_path_factory) -> Path:
    """A snapshot that stands in for ImageNet's weights."""
    path = tmp_path_factory.mktemp("initial") / "GTA5_0.pth"
    torch.manual_seed(3)
    torch.save(
        AD_Trainer(stage1_args(["--arch", "mini", "--num-classes", str(CLASSES)])).G.state_dict(), path
    )
    return path


@pytest.mark.parametrize(
    "pixel", ["", "--lambda-pixel 0.1 --crop-size 88,88"], ids=["alone", "beside pixel contrast"]
)
def test_features_are_kept_near_those_of_the_initial_weights_where_things_are(pixel, initial, one_thread):
    flags = f"--lambda-fd 0.5 --fd-classes 3,5 --imnet-from {initial} {pixel}"
    trainer, plain = build(3, f"{SELF_TRAINING} {flags}"), build(3, f"{SELF_TRAINING} {pixel}")
    trainer.load_reference()
    (reference,) = trainer._reference
    assert trainer.state_dict().keys() == plain.state_dict().keys()  # it is no part of a state
    images, images_t, labels, labels_t = batch(0)
    with torch.no_grad():
        expected = reference.network(images, features="input")[2][:, : trainer.kept_channels]
        student = copy.deepcopy(trainer.G)(images, features="input")[2][:, : trainer.kept_channels]
    before = {key: value.clone() for key, value in reference.state_dict().items()}
    found, _ = trainer.gen_update(images, images_t, labels, labels_t, 0)
    assert found["fd"].item() == pytest.approx(feature_distance(student, expected, labels, [3, 5]).item())
    assert all(torch.equal(value, before[key]) for key, value in reference.state_dict().items())
    assert plain.gen_update(*batch(0), 0)[0].keys() == found.keys() - {"fd"}
    stages = trainer.G.layer4.parameters(), plain.G.layer4.parameters()
    assert any(not torch.equal(p, q) for p, q in zip(*stages, strict=True))
    for p, q in zip(trainer.G.layer6.head.parameters(), plain.G.layer6.head.parameters(), strict=True):
        torch.testing.assert_close(p, q)  # a classifier does not feel it


def test_teacher_contrast_and_feature_distance_compile(monkeypatch, one_thread):
    monkeypatch.setitem(deeplab_multi.ARCHS, "mini", deeplab_multi.Arch((1, 1, 1, 1), 8, 32, 64))
    flags = f"--self-training --lambda-mask 1 {NOT_ADVERSARIAL} --lambda-pixel 0.1 --crop-size 80,80"
    flags += " --lambda-fd 0.1 --fd-classes 1"
    compiled, eager = (build(3, flags) for _ in range(2))
    for trainer in (compiled, eager):
        trainer._reference.append(LastStage(copy.deepcopy(trainer.G).eval()))
    graphs = []

    def backend(graph, inputs):
        graphs.append((str(graph.code), torch.is_grad_enabled()))
        return graph.forward

    compiled.compile(backend=backend)
    images = torch.randn(2, 2, 3, 80, 80, generator=torch.Generator().manual_seed(0)) * 50
    labels = torch.tensor([1, 2])[:, None, None].repeat(1, 80, 80)  # the contrast needs 100 cells of a class
    for i_iter in range(2):
        found, expected = (
            trainer.gen_update(*images, labels, None, i_iter)[0] for trainer in (compiled, eager)
        )
        assert found == expected and found["pixel"] > 0 and found["fd"] > 0 and found["masked1"] > 0
    torch.compiler.reset()
    assert {grad for code, grad in graphs if "conv2d" in code} == {True, False}  # student and teacher
    assert any("cross_entropy" in code and "conv2d" not in code for code, _ in graphs)


def test_the_reference_is_the_backbone_that_the_training_starts_from(initial, tmp_path):
    state = {f"Scale.{key}": value for key, value in torch.load(initial).items() if key[:6] != "layer6"}
    torch.save({key: value for key, value in state.items() if "layer5" not in key}, tmp_path / "caffe.pth")
    trainer = build(3, f"--lambda-fd 1 --fd-classes 3 --restore-from {tmp_path / 'caffe.pth'}")
    trainer.load_reference()
    assert trainer.args.imnet_from == str(tmp_path / "caffe.pth")  # for opts.yaml
    found = trainer._reference[0].network.state_dict()
    assert torch.equal(found["layer4.0.conv2.weight"], state["Scale.layer4.0.conv2.weight"])
    with pytest.raises(WeightsError, match="mini has no ImageNet weights.*--imnet-from"):
        build(3, f"--lambda-fd 1 --fd-classes 3 --restore-from {initial}").load_reference()


def test_a_batch_without_a_thing_has_no_feature_distance(initial, one_thread):
    trainer = build(
        3,
        f"{SELF_TRAINING} --lambda-fd 0.5 --fd-classes 3 --imnet-from {initial}",
    )
    images, images_t, labels, labels_t = batch(0)
    found, _ = trainer.gen_update(images, images_t, labels.fill_(2), labels_t, 0)
    assert found["fd"] == 0
    assert all(p.isfinite().all() for p in trainer.G.parameters())


def test_the_feature_distance_goes_with_stage_1_alone(initial, one_thread):
    expected = build(1, "").gen_update(*batch(0), 0)[0]
    trainer = build(3, f"--lambda-fd 0.01 --fd-classes 3 --imnet-from {initial}")
    found, _ = trainer.gen_update(*batch(0), 0)
    assert found.keys() - expected.keys() == {"fd"} and trainer.teacher_snapshot() == {}


def test_things_are_those_of_cityscapes_by_name_or_named(tmp_path):
    assert stage1_args(["--lambda-fd", "1"]).fd_classes == [6, 7, 11, 12, 13, 14, 15, 16, 17, 18]
    assert stage1_args(["--lambda-fd", "1", "--fd-classes", "car,train,7"]).fd_classes == [7, 13, 16]
    description = describe(tmp_path / "dataset.yaml", classes={"lane": {"ids": 1}, "car": {"ids": 2}})
    assert stage1_args(["--source", str(description), "--lambda-fd", "1"]).fd_classes == [1]


def test_a_published_recipe_saves_a_teacher_that_can_be_evaluated(world, initial, run_main):
    recipe = ("--config", str(ROOT / "recipes" / "mic.yaml"), *TRAINING, "--keep", "1")
    small = ("--pseudo-margins", "0,0", "--rcs-pixels", "60", "--imnet-from", str(initial))
    result = run_main("train_ms", *recipe, *small, "--crop-size", "64,32", "--snapshot-dir", "run")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert sorted(path.name for path in Path("run").glob("*.pth")) == ["GTA5_4.pth", "GTA5_4_teacher.pth"]
    line = json.loads(Path("run/log.jsonl").read_text().splitlines()[-1])
    captions = [chart.caption for chart in charts(Path("run/log.jsonl"))]
    assert {"Pseudo labels of the teacher (nats)", "Feature distance"} <= set(captions)
    assert line["mix2"] > 0 and line["masked2"] >= 0 and line["fd"] > 0 and 0 <= line["share"] <= 1
    snapshot = ("--restore-from", "run/GTA5_4_teacher.pth", "--save", "scores")
    flags = ("--input-size", "72,40", "--num-workers", "0", "--cpu")
    result = run_main("evaluate_cityscapes", *snapshot, *flags)
    assert result.returncode == 0, result.stderr
    assert "means" in json.loads(Path("scores/metrics.json").read_text())


@pytest.mark.parametrize(
    ("script", "flags", "named"),
    [
        ("train_ft", "--self-training", ("--self-training", "train_ms.py")),
        ("train_ms", "--self-training --pseudo-margins 5,9", ("--pseudo-margins", "height")),
        (
            "train_ms",
            "--self-training --input-size-target 72,32 --pseudo-margins 12,20",
            ("--pseudo-margins", "no row"),
        ),
        ("train_ms", "--pseudo-margins 5", ("'5'", "15,120")),
        ("train_ms", "--self-training --jitter 0.6", ("0.6", "0.5")),
        ("train_ms", "--lambda-fd 1 --fd-classes car,cat", ("--fd-classes", "cat", "road, sidewalk")),
        ("train_ms", "--lambda-fd 1 --imnet-from none", ("--imnet-from none", "imagenet")),
        ("train_ms", "--lambda-fd 1 --imnet-from lost.pth", ("--imnet-from lost.pth",)),
        ("train_ms", "--lambda-fd 1", ("--arch mini", "--imnet-from")),
        ("train_ms", "--lambda-fd 1 --crop-size 60,32", ("--crop-size", "multiples")),
    ],
    ids=[
        *("stage 2", "margins of a part", "margins of all rows", "one margin", "jitter"),
        *("no class", "random reference", "lost reference", "no reference", "odd crop"),
    ],
)
def test_flags_that_cannot_be_are_one_line(script, flags, named, world, run_main):
    one_line_error(run_main(script, *TRAINING, *flags.split()), *named)


def test_flags_of_self_training_alone_say_that_they_are_idle(world, run_main):
    flags = ("--lambda-mix", "2", "--mask-block", "8", "--teacher-alpha", "0.9", "--num-steps-stop", "1")
    result = run_main("train_ms", *TRAINING, *flags, "--snapshot-dir", "run")
    for flag in ("--lambda-mix", "--mask-block", "--teacher-alpha"):
        assert f"{flag} has no effect" in result.stdout


PUBLISHED = dict(
    crop_size=(512, 512), input_size=(720, 1280), input_size_target=(512, 1024), batch_size=2, droprate=0
)
DAFORMER = dict(optimizer="adamw", learning_rate=6e-5, weight_decay=0.01, power=1, warm_up=1500)
DAFORMER |= dict(warm_up_start=0, num_steps_stop=40000, teacher_alpha=0.999, rcs=0.01, lambda_fd=0.005)
DAFORMER |= dict(
    pseudo_margins=[15, 120], jitter=0.2, random_mirror=True, train_bn=True, pseudo_weight="share"
)
DACS = dict(optimizer="sgd", learning_rate=2.5e-4, nesterov=False, power=0.9, warm_up=0, rcs=0, lambda_fd=0)
DACS |= dict(num_steps_stop=250000, teacher_alpha=0.99, jitter=0.25, pseudo_margins=[0, 0], lambda_mask=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("dacs", DACS), ("daformer", DAFORMER | dict(lambda_mask=0)), ("mic", DAFORMER | dict(lambda_mask=1))],
    ids=["dacs", "daformer", "mic"],
)
def test_a_published_row_is_one_command(name, settings):
    path = ROOT / "recipes" / f"{name}.yaml"
    args = vars(stage1_args(["--config", str(path)]))
    expected = PUBLISHED | settings | dict(self_training=True, label_scales=[1, 1], blur_chance=0.5)
    assert {key: args[key] for key in expected} == expected
    assert yaml.safe_load(path.read_text()).keys() <= args.keys()


@pytest.mark.parametrize("name", ["dacs", "daformer", "mic"])
def test_a_published_row_has_its_optimizer_on_any_backbone(name):
    pytest.importorskip("timm")
    path = str(ROOT / "recipes" / f"{name}.yaml")
    args = stage1_args(["--arch", "timm/pvt_v2_b5", "--config", path])
    assert (args.optimizer, args.learning_rate) == (("sgd", 2.5e-4) if name == "dacs" else ("adamw", 6e-5))
