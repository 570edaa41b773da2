"""The discriminator's gradient penalty against torch's second derivative, and the kernels a step asks for."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step import stage_args
from model.ms_discriminator import GRADIENT_PENALTY, MsImageDis
from trainer_ms import AD_Trainer

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
LARGEST_KERNEL = 7


def autograd_dis_loss(discriminator: MsImageDis, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """`dis_loss` by differentiating twice."""
    real = real.detach().requires_grad_()
    loss = penalty = 0.0
    for score_fake, score_real in zip(discriminator(fake), discriminator(real), strict=True):
        loss = loss + score_fake.square().mean() + (score_real - 1).square().mean()
        (gradient,) = torch.autograd.grad(score_real.sum(), real, create_graph=True)
        penalty = penalty + GRADIENT_PENALTY * gradient.square().sum((1, 2, 3)).mean()
    return loss + penalty, penalty


@pytest.mark.parametrize("size", [(48, 64), (41, 57), (33, 130), (16, 9)])
def test_the_penalty_and_its_gradients_are_those_of_a_second_derivative(size, float64, one_thread):
    torch.manual_seed(0)
    discriminator = MsImageDis(7)
    for p in discriminator.parameters():
        torch.nn.init.normal_(p, std=0.1)
    fake, real = (torch.randn(2, 7, *size).softmax(1) for _ in range(2))
    found = {}
    for way, dis_loss in (("explicit", discriminator.dis_loss), ("autograd", None)):
        loss, penalty = dis_loss(fake, real) if dis_loss else autograd_dis_loss(discriminator, fake, real)
        discriminator.zero_grad()
        loss.backward()
        found[way] = loss, penalty, [p.grad for p in discriminator.parameters()]
    (loss, penalty, gradients), (expected_loss, expected_penalty, expected) = found.values()
    assert penalty > 0 and torch.equal(penalty, expected_penalty) and torch.equal(loss, expected_loss)
    for gradient, p in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, p, rtol=1e-12, atol=1e-12 * p.abs().max().item())


class Kernels(TorchDispatchMode):
    """Records the spatial sizes of all filters."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in CONVOLUTIONS:
            weight = args[2 if func is CONVOLUTIONS[1] else 1]
            self.sizes.add(tuple(weight.shape[2:]))
        return func(*args, **(kwargs or {}))


def test_no_convolution_of_the_discriminators_step_has_a_filter_of_the_images_size():
    """cuDNN has no fast kernels for them; at the published size they would be 256x512."""
    with FakeTensorMode():
        args = stage_args("stage1", "fp32", checkpointing=False)
        trainer = AD_Trainer(args)
        logits = [torch.empty(args.batch_size, args.num_classes, *args.crop_size) for _ in range(4)]
        with Kernels() as kernels:
            trainer.dis_update(*logits)
        with Kernels() as double:
            loss, _ = autograd_dis_loss(trainer.D1.requires_grad_(True), logits[0], logits[1])
            loss.backward()
    assert kernels.sizes == {(1, 1), (3, 3)}
    assert max(max(size) for size in double.sizes) > LARGEST_KERNEL  # it would be noticed
