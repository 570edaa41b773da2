"""Learning rates over the iterations (MRNet, section 4.1): linear warm-up, then polynomial decay."""

WARM_UP_START = 0.1  # share of the base rate at iteration 0 of a warm-up


def poly(base: float, i_iter: int, num_steps: int, power: float) -> float:
    """base * (1 - i_iter / num_steps)^power."""
    return base * (1 - i_iter / num_steps) ** power


def warmup_poly(base: float, i_iter: int, num_steps: int, power: float, warm_up: int) -> float:
    """base * (0.1 + 0.9 * i_iter / warm_up) while i_iter < warm_up, afterwards `poly`."""
    if i_iter < warm_up:
        return base * (WARM_UP_START + (1 - WARM_UP_START) * i_iter / warm_up)
    return poly(base, i_iter, num_steps, power)
