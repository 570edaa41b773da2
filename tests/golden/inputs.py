"""Deterministic inputs and weights behind the reference values in this folder (see test_golden.py).

Everything is drawn by name, so that any program can rebuild it: `draw` seeds
NumPy's PCG64 with the CRC-32 of a name.
"""

import zlib

import numpy as np
import torch


def draw(name: str, shape: tuple, scale: float = 1.0) -> torch.Tensor:
    """Standard normal values times `scale`, rounded to float32, as a tensor of that shape."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy((generator.standard_normal(shape) * scale).astype(np.float32))


def weights(state_dict: dict, prefix: str = "") -> dict:
    """Values for every entry of `state_dict`, drawn by `prefix + key`.

    Matrices and kernels N(0, sqrt(2 / fan-in)); one-dimensional weights 1 + 0.1 n; biases and
    running means 0.1 n; running variances 1 + 0.1 |n|; counters 0.
    """
    out = {}
    for key, value in state_dict.items():
        if value.dim() == 0:
            out[key] = torch.zeros_like(value)
            continue
        n = draw(prefix + key, tuple(value.shape)).numpy()
        if key.endswith("running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif value.dim() == 1 and key.endswith("weight"):
            n = 1 + 0.1 * n
        elif value.dim() == 1:
            n = 0.1 * n
        else:
            n = n * np.sqrt(2.0 / np.prod(value.shape[1:]))
        out[key] = torch.from_numpy(np.ascontiguousarray(n.astype(np.float32)))
    return out


def label_blocks(name: str, n: int, h: int, w: int, classes: int, skew: bool = False) -> torch.Tensor:
    """Labels (n, h, w), int64, constant on 8x8 blocks, a tenth of the blocks 255.

    With `skew` a few classes cover most of the area and many are absent.
    """
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    grid = (n, h // 8, w // 8)
    if skew:
        p = np.zeros(classes)
        p[[0, 2, 8, 10]] = [0.4, 0.3, 0.15, 0.1]
        p[[13, 11]] = [0.03, 0.02]
        labels = generator.choice(classes, size=grid, p=p)
    else:
        labels = generator.integers(0, classes, grid)
    labels[generator.random(grid) < 0.1] = 255
    return torch.from_numpy(np.repeat(np.repeat(labels, 8, 1), 8, 2).astype(np.int64))
