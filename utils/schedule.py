"""Learning rates over the iterations (MRNet, section 4.1): linear warm-up, then polynomial decay."""

import math

COSINE_END = 0.01  # the smallest factor of a cosine


def poly(base: float, i_iter: int, num_steps: int, power: float) -> float:
    """base * (1 - i_iter / num_steps)^power."""
    return base * (1 - i_iter / num_steps) ** power


def warmup_poly(
    base: float, i_iter: int, num_steps: int, power: float, warm_up: int, start: float = 0.1
) -> float:
    """base * (start + (1 - start) * i_iter / warm_up) while i_iter < warm_up, afterwards `poly`."""
    if i_iter < warm_up:
        return base * (start + (1 - start) * i_iter / warm_up)
    return poly(base, i_iter, num_steps, power)


def cosine(i_iter: int, start: int, period: int) -> float:
    """Factor of the rate with `--cosine`: 1 until `start`, then from 1 down to 0.01 in every `period`."""
    phase = max(0, i_iter - start) % period / period
    return max(COSINE_END, 0.5 * (1 + math.cos(math.pi * phase)))
