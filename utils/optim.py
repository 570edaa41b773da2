"""SGD that applies its whole update to a parameter several times a step.

The code behind the published numbers listed a backbone parameter once for each module that encloses it,
so one step applied weight decay, momentum and Nesterov to it that many times with the same gradient. On
current GPUs such a list is a data race; this optimiser does the same arithmetic one update after another.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


class RepeatedSGD(torch.optim.Optimizer):
    """Nesterov SGD; a group's optional `repeats` says how often each of its `params` is updated a step.

    Args:
        groups: dicts with `params`, `lr` and, if not 1 everywhere, `repeats` (one int for each parameter).
        momentum, weight_decay: as `torch.optim.SGD`'s, with `nesterov=True` and no dampening.
    """

    def __init__(self, groups: Iterable[dict], momentum: float, weight_decay: float):
        super().__init__(groups, dict(momentum=momentum, weight_decay=weight_decay, repeats=None))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("RepeatedSGD takes no closure")
        for group in self.param_groups:
            for (repeats, started), params in self._buckets(group).items():
                if not started:
                    for p in params:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffers = [self.state[p]["momentum_buffer"] for p in params]
                gradients = [p.grad for p in params]
                for _ in range(repeats):
                    if not started:
                        # In the published code the repeats of a parameter's first step each started a
                        # momentum of their own, and the last one's was kept.
                        torch._foreach_zero_(buffers)
                    _nesterov_update(params, gradients, buffers, group)

    def _buckets(self, group: dict) -> dict[tuple[int, bool], list[Tensor]]:
        """The group's parameters with a gradient, by number of updates and whether they have momentum."""
        repeats = group["repeats"] or [1] * len(group["params"])
        buckets = defaultdict(list)
        for parameter, count in zip(group["params"], repeats, strict=True):
            if parameter.grad is not None:
                buckets[count, "momentum_buffer" in self.state[parameter]].append(parameter)
        return buckets


def _nesterov_update(
    params: list[Tensor], gradients: list[Tensor], buffers: list[Tensor], group: dict
) -> None:
    """One Nesterov update with weight decay, in place, of many parameters at once."""
    directions = torch._foreach_add(gradients, params, alpha=group["weight_decay"])
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_add_(buffers, directions)
    torch._foreach_add_(directions, buffers, alpha=group["momentum"])
    torch._foreach_add_(params, directions, alpha=-group["lr"])
