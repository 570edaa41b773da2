"""Upsampling whose gradient repeats to the bit equals torch's, both ways."""

import pytest
import torch
import torch.nn.functional as F

from utils.upsampling import RepeatableUpsampling


@pytest.mark.parametrize("small", [(5, 7), (1, 3), (9, 17)])
def test_repeatable_upsampling_is_torchs_with_the_same_gradient(small, float64):
    maps = torch.rand(2, 3, *small, requires_grad=True)
    other = maps.detach().clone().requires_grad_()
    size = (33, 65)
    weight = torch.rand(2, 3, *size)
    found = RepeatableUpsampling.apply(maps, size)
    expected = F.interpolate(other, size, mode="bilinear", align_corners=True)
    assert torch.equal(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(maps.grad, other.grad, rtol=1e-13, atol=1e-13)
