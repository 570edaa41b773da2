"""Losses part by part: the values and gradients of the whole, and none of its memory."""

import pytest
import torch

from utils import losses, pixelwise

CLASSES, SIZE = 5, (3, 11, 7)
WEIGHT = torch.linspace(0.5, 3, CLASSES, dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("float64", "one_thread")


def drawn(classes=CLASSES, size=SIZE):
    """z1, z2, labels."""
    generator = torch.Generator().manual_seed(0)
    images, height, width = size
    z1, z2 = (3 * torch.randn(images, classes, height, width, generator=generator) for _ in range(2))
    labels = torch.randint(0, classes, size, generator=generator)
    labels[:, :2] = 255
    return z1.requires_grad_(), z2.requires_grad_(), labels


TERMS = {
    "segmentation": lambda z1, z2, y: losses.segmentation_loss(z1, y, WEIGHT) + z2.sum() * 0,
    "hard pixels": lambda z1, z2, y: losses.segmentation_loss(z1 + z2, y, WEIGHT, hard_percentile=60),
    "memory": lambda z1, z2, y: losses.memory_regularization(z1, z2),
    "entropy": lambda z1, z2, y: losses.confidence_weighted_entropy(z1, z2),
}
for name in losses.DIVERGENCES:
    TERMS[f"rectified, {name}"] = lambda z1, z2, y, name=name: sum(
        factor * loss
        for factor, loss in zip(
            (0.5, 1.0), losses.rectified_losses(z1, z2, y, WEIGHT, divergence=name), strict=True
        )
    )


@pytest.mark.parametrize("part_bytes", [1, 3 * 8 * CLASSES * 7, 2 * 8 * CLASSES * 11 * 7, 1 << 20])
@pytest.mark.parametrize("term", TERMS)
def test_parts_add_up_to_what_autograd_makes_of_the_whole(term, part_bytes, monkeypatch):
    *logits, labels = drawn()
    monkeypatch.setattr(pixelwise, "CACHED_BYTES", part_bytes)
    value = TERMS[term](*logits, labels)
    found = torch.autograd.grad(value, logits)
    monkeypatch.setattr(losses, "pixelwise", lambda function, logits, maps=(): function(*logits, *maps))
    expected = TERMS[term](*logits, labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-13) and value.item() > 0.1
    for gradient, whole in zip(found, torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(gradient, whole, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("term", ["hard pixels", "memory", "entropy", "rectified, kl"])
def test_only_the_logits_are_kept_for_the_backward_pass(term):
    *logits, labels = drawn(classes=40)
    weight = torch.ones(40)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if term == "hard pixels":
            losses.segmentation_loss(logits[0], labels, weight, hard_percentile=60)
        elif term == "rectified, kl":
            losses.rectified_losses(*logits, labels, weight)
        else:
            TERMS[term](*logits, labels)
    of_logits = sum(kept.pop(z.data_ptr(), 0) for z in logits)
    a_map = labels.numel() * 8
    assert of_logits > 0 and sum(kept.values()) <= 6 * a_map < logits[0].numel() * 8


def test_a_second_derivative_is_refused():
    *logits, _ = drawn()
    loss = losses.memory_regularization(*logits)
    (gradient,) = torch.autograd.grad(loss, logits[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        gradient.sum().backward()
