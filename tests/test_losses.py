"""Loss terms, class weights and percentiles against the papers' equations, written out here in NumPy."""

import numpy as np
import pytest
import torch

from utils import losses
from utils.percentile import percentile

CLASSES, IGNORED = 5, 255
WEIGHT = torch.linspace(0.5, 3, CLASSES, dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("float64", "one_thread")


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z1, z2 (3, 5, 11, 7) and labels (3, 11, 7), of which some are ignored."""
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (3 * torch.randn(3, CLASSES, 11, 7, generator=generator) for _ in range(2))
    labels = torch.randint(0, CLASSES, (3, 11, 7), generator=generator)
    labels[:, :2] = IGNORED
    return z1.requires_grad_(), z2.requires_grad_(), labels


def softmax(z: torch.Tensor) -> np.ndarray:
    exp = np.exp(z.detach().numpy())
    return exp / exp.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(1)


def cross_entropy(p: np.ndarray, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Weighted cross entropy and weight of each pixel, both 0 where ignored."""
    index = labels.masked_fill(labels == IGNORED, 0).numpy()
    weight = np.where(labels.numpy() == IGNORED, 0, WEIGHT.numpy()[index])
    return -weight * np.log(np.take_along_axis(p, index[:, None], 1)[:, 0]), weight


def logit_gradients(loss: torch.Tensor, *logits: torch.Tensor) -> list[np.ndarray]:
    return [gradient.numpy() for gradient in torch.autograd.grad(loss, logits)]


@pytest.mark.parametrize("hard", [0, 60])
def test_segmentation_loss_is_the_weighted_mean_over_the_hard_pixels(hard, drawn):
    z, _, labels = drawn
    ce, weight = cross_entropy(softmax(z), labels)
    kept = ce >= np.percentile(ce, hard)
    expected = (ce * kept).sum() / (weight * kept).sum()
    loss = losses.segmentation_loss(z, labels, WEIGHT, IGNORED, hard)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = logit_gradients(loss, z)
    one_hot = np.eye(CLASSES)[labels.masked_fill(labels == IGNORED, 0)].transpose(0, 3, 1, 2)
    by_hand = (weight * kept / (weight * kept).sum())[:, None] * (softmax(z) - one_hot)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-9, atol=1e-15)


def test_segmentation_loss_without_a_labelled_pixel_is_0_and_so_is_its_gradient(drawn):
    z, _, labels = drawn
    loss = losses.segmentation_loss(z, torch.full_like(labels, IGNORED), WEIGHT, IGNORED, 80)
    assert loss.item() == 0
    assert not logit_gradients(loss, z)[0].any()


def test_memory_regularization_pulls_both_classifiers_to_their_constant_mixture(drawn):
    z1, z2, _ = drawn
    p1, p2, m = softmax(z1), softmax(z2), softmax(0.5 * z1 + z2)
    loss = losses.memory_regularization(z1, z2)
    assert loss.item() == pytest.approx((kl(m, p2) + kl(m, p1)).mean(), rel=1e-12)
    for gradient, p in zip(logit_gradients(loss, z1, z2), (p1, p2), strict=True):
        np.testing.assert_allclose(gradient, (p - m) / m[:, 0].size, rtol=1e-9, atol=1e-15)


def test_entropy_is_weighted_by_a_confidence_without_gradient(drawn):
    z1, z2, _ = drawn
    p = softmax(0.5 * z1 + z2)
    entropy, confidence = -(p * np.log(p)).sum(1), np.square(p).sum(1)
    loss = losses.confidence_weighted_entropy(z1, z2)
    assert loss.item() == pytest.approx((confidence * entropy).mean(), rel=1e-12)
    of_fused = -(confidence / confidence.size)[:, None] * p * (np.log(p) + entropy[:, None])
    for gradient, factor in zip(logit_gradients(loss, z1, z2), (0.5, 1.0), strict=True):
        np.testing.assert_allclose(gradient, factor * of_fused, rtol=1e-9, atol=1e-15)


DIVERGENCES = {  # of classifier b from the rectified classifier a
    "kl": lambda a, b: kl(b, a),
    "reverse-kl": kl,
    "squared": lambda a, b: np.square(a - b).sum(1),
}


@pytest.mark.parametrize(("divergence", "focal"), [*((name, 0) for name in losses.DIVERGENCES), ("kl", 2)])
def test_rectified_losses_discount_pixels_by_the_divergence_and_add_it(divergence, focal, drawn):
    z1, z2, labels = drawn
    found = losses.rectified_losses(z1, z2, labels, WEIGHT, IGNORED, divergence, focal)
    for loss, (a, b) in zip(found, ((z1, z2), (z2, z1)), strict=True):
        variance = DIVERGENCES[divergence](softmax(a), softmax(b))
        ce, weight = cross_entropy(softmax(a), labels)
        ce *= (1 - np.exp(-ce / np.maximum(weight, 1e-9))) ** focal
        expected = ce * np.exp(-variance) + variance
        assert loss.item() == pytest.approx(expected.mean(), rel=1e-12)
    small = [z[:1, :, 1:4, :2].detach().requires_grad_() for z in (z1, z2)]

    def both(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        return sum(
            losses.rectified_losses(z1, z2, labels[:1, 1:4, :2], WEIGHT, IGNORED, divergence), start=z1.sum()
        )

    torch.autograd.gradcheck(both, small)  # nothing is detached


def test_class_weights_follow_the_pixels_of_the_batch():
    labels = torch.full((2, 100, 100), 1)
    labels[0, :5], labels[:, 50:] = 0, IGNORED
    counts = losses.class_pixel_counts(labels, 3)
    assert counts.tolist() == [500, 9500, 0]
    assert losses.rare_class_weight(counts, images=2, max_value=7).tolist() == [7, 1, 7]
    assert losses.rare_class_weight(torch.tensor([8191, 8192]), images=2, max_value=7).tolist() == [7, 1]
    often = losses.update_often_weight(torch.tensor([1.0, 2.0, 1.0]), counts, max_value=7)
    assert often.tolist() == pytest.approx([1, 1.9, 1.6], rel=1e-12)


class OnGpu(torch.Tensor):
    """A tensor that computes on the CPU and claims to be on a GPU, where values are sorted."""

    device = torch.device("cuda")


@pytest.mark.parametrize("kind", [torch.Tensor, OnGpu])
@pytest.mark.parametrize("values", [torch.randn(7, 11, 13, dtype=torch.float64), torch.tensor([3.0, 1.0])])
def test_percentile_is_numpys(values, kind):
    values = values.clone()
    values.view(-1)[::5] = 0  # ties, as ignored pixels make them
    for q in (0, 12.5, 80, 99.95, 100):
        expected = np.percentile(values.numpy(), q)
        assert percentile(values.as_subclass(kind), q).item() == pytest.approx(expected, rel=1e-12)
