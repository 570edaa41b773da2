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

    With a `torch.amp.GradScaler` a step whose gradients overflowed changes nothing, which is decided on the
    device: no host waits for it.

    Args:
        groups: dicts with `params`, `lr` and, if not 1 everywhere, `repeats` (one int for each parameter).
        momentum, weight_decay: as `torch.optim.SGD`'s, with `nesterov=True` and no dampening.
    """

    # GradScaler then sets `grad_scale` and `found_inf` around `step` instead of reading the latter itself.
    _step_supports_amp_scaling = True

    def __init__(self, groups: Iterable[dict], momentum: float, weight_decay: float):
        super().__init__(groups, dict(momentum=momentum, weight_decay=weight_decay, repeats=None))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("RepeatedSGD takes no closure")
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        keep = None if found_inf is None else found_inf == 0
        for group in self.param_groups:
            for (repeats, new), params in self._buckets(group).items():
                if new:
                    self._start(params)
                gradients = [p.grad for p in params]
                if scale is not None:
                    torch._foreach_div_(gradients, scale)
                started = self.state[params[0]]["started"]
                buffers = [self.state[p]["momentum_buffer"] for p in params]
                # In the published code the repeats of a parameter's first step each started a momentum of
                # their own, and the last one's was kept.
                decay = group["momentum"] * started
                if keep is not None:
                    decay = torch.where(keep, decay, 1.0)
                    for gradient in gradients:
                        gradient.masked_fill_(~keep, 0)
                for _ in range(repeats):
                    _nesterov_update(params, gradients, buffers, decay, keep, group)
                started.fill_(1) if keep is None else started.clamp_min_(keep.to(started.dtype))

    def _start(self, params: list[Tensor]) -> None:
        """Momentum 0, and a common mark, 0 until the first step that is not skipped."""
        started = params[0].new_zeros(())
        for p in params:
            self.state[p].update(momentum_buffer=torch.zeros_like(p), started=started)

    def _buckets(self, group: dict) -> dict[tuple[int, bool], list[Tensor]]:
        """The group's parameters with a gradient, by number of updates and whether it is their first step."""
        repeats = group["repeats"] or [1] * len(group["params"])
        buckets = defaultdict(list)
        for parameter, count in zip(group["params"], repeats, strict=True):
            if parameter.grad is not None:
                buckets[count, "momentum_buffer" not in self.state[parameter]].append(parameter)
        return buckets


def _nesterov_update(
    params: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    decay: Tensor,
    keep: Tensor | None,
    group: dict,
) -> None:
    """One Nesterov update with weight decay, in place, of many parameters at once.

    `decay` is the factor of the momentum's earlier part; where `keep` is 0 nothing changes (`decay` is 1).
    """
    directions = torch._foreach_add(gradients, params, alpha=group["weight_decay"])
    if keep is not None:
        torch._foreach_mul_(directions, keep.to(decay.dtype))
    torch._foreach_mul_(buffers, decay)
    torch._foreach_add_(buffers, directions)
    torch._foreach_add_(directions, buffers, alpha=group["momentum"])
    if keep is not None:
        torch._foreach_mul_(directions, keep.to(decay.dtype))
    torch._foreach_add_(params, directions, alpha=-group["lr"])
