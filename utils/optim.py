"""Optimisers of the segmentation network: AdamW, and SGD that updates a parameter several times per step.

The code behind the published numbers listed each backbone parameter once for every module that encloses it,
so one step applied weight decay, momentum and Nesterov to it that many times with the same gradient. On
current GPUs such a list is a data race; `RepeatedSGD` does the same arithmetic, one update after another.
"""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

CLASSIFIER_RATE = 10  # learning rate of the classifiers relative to the backbone
# Those of AdamW are DAFormer's (arXiv 2111.14887, section 4.1).
OPTIMIZERS = {
    "sgd": dict(learning_rate=2.5e-4, weight_decay=5e-4, warm_up=0),
    "adamw": dict(learning_rate=6e-5, weight_decay=0.01, warm_up=1500),
}


def build_optimizer(network: nn.Module, args: Namespace, heads: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a network and further heads that the flags choose; `set_rate` sets its rates.

    SGD repeats the updates of the published networks as published. AdamW lets norms and biases of a network
    decay only if it `decays_all`, as DAFormer's ResNet does.
    """
    backbone = {key: p for key, p in network.backbone_parameters().items() if p.requires_grad}
    parts = list(backbone.values()), [*network.classifier_parameters().values(), *heads.parameters()]
    rates = args.learning_rate, CLASSIFIER_RATE * args.learning_rate
    if args.optimizer == "sgd":
        groups = [dict(params=params, lr=rate) for params, rate in zip(parts, rates, strict=True)]
        if not args.single_updates and network.repeats_updates:
            groups[0]["repeats"] = [published_repeats(key) for key in backbone]
        return RepeatedSGD(groups, args.momentum, args.weight_decay, args.nesterov)
    groups = []
    for decays in (True, False):
        for params, rate in zip(parts, rates, strict=True):
            chosen = [p for p in params if decays == (network.decays_all or p.ndim > 1)]
            groups.append(dict(params=chosen, lr=rate, weight_decay=decays * args.weight_decay))
    optimizer = torch.optim.AdamW(groups, fused=True)
    optimizer.register_step_pre_hook(keep_layout)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the backbone's learning rate, and with it the classifiers'; their groups alternate."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = CLASSIFIER_RATE * rate if index % 2 else rate


def published_repeats(key: str) -> int:
    """How often the published recipe updates a backbone parameter per step.

    Once in the stem, 3 times in a bottleneck of `layer1` ... `layer4`, 4 times in its shortcut.
    """
    if ".downsample." in key:
        return 4
    return 3 if key.startswith("layer") else 1


def keep_layout(optimizer: torch.optim.Optimizer, *_) -> None:
    """Bring gradients and states into the memory format of their parameters; a pre-hook of `step`.

    torch's fused kernels assume one format without checking. It differs only if the network's memory format
    changed between steps, or the saved state used another one.
    """
    for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if p.grad.stride() != p.stride():
            p.grad = torch.empty_like(p).copy_(p.grad)
        state = optimizer.state[p]
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == p.shape and value.stride() != p.stride():
                state[name] = torch.empty_like(p).copy_(value)


class RepeatedSGD(torch.optim.Optimizer):
    """SGD that updates each parameter `repeats` times per step.

    With a `torch.amp.GradScaler`, a step with overflowed gradients is skipped on the device, without a
    synchronisation.

    Args:
        groups: dicts with `params`, `lr` and optionally `repeats` (one int per parameter; default 1).
        momentum, weight_decay, nesterov: as `torch.optim.SGD`'s, without dampening.
    """

    # GradScaler then passes `grad_scale` and `found_inf` to `step` instead of reading the latter itself.
    _step_supports_amp_scaling = True

    def __init__(self, groups: Iterable[dict], momentum: float, weight_decay: float, nesterov: bool = True):
        defaults = dict(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, repeats=None)
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("RepeatedSGD takes no closure")
        keep_layout(self)
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        for group in self.param_groups:
            options = {name: group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")}
            options |= dict(dampening=0, maximize=False)
            options |= dict(fused=True, grad_scale=None, found_inf=found_inf)
            for (repeats, new), params in self._buckets(group).items():
                if new:
                    self._start(params)
                gradients = [p.grad for p in params]
                if scale is not None:
                    torch._foreach_div_(gradients, scale)
                buffers = [self.state[p]["momentum_buffer"] for p in params]
                started = self.state[params[0]]["started"]
                for _ in range(repeats):
                    # In the published code each repeat of a parameter's first step started with zero
                    # momentum, and the last one's momentum was kept.
                    if found_inf is not None:
                        torch._foreach_mul_(buffers, started)
                    elif new:
                        torch._foreach_zero_(buffers)
                    sgd(params, gradients, buffers, **options)  # does nothing where found_inf is 1
                if found_inf is None:
                    started.fill_(1)
                else:
                    started.clamp_min_((found_inf == 0).to(started.dtype))

    def load_state_dict(self, state_dict: dict) -> None:
        """As in Optimizer; parameters whose steps were all skipped count as new again."""
        super().load_state_dict(state_dict)
        for p in [p for p, state in self.state.items() if not state["started"]]:
            del self.state[p]

    def _start(self, params: list[Tensor]) -> None:
        """Zero momentum, and one flag for all of them, 0 until the first step that is not skipped."""
        started = params[0].new_zeros(())
        for p in params:
            self.state[p].update(momentum_buffer=torch.zeros_like(p), started=started)

    def _buckets(self, group: dict) -> dict[tuple[int, bool], list[Tensor]]:
        """The group's parameters with a gradient, by number of updates and whether it is the first step."""
        repeats = group["repeats"] or [1] * len(group["params"])
        buckets = defaultdict(list)
        for parameter, count in zip(group["params"], repeats, strict=True):
            if parameter.grad is not None:
                buckets[count, "momentum_buffer" not in self.state[parameter]].append(parameter)
        return buckets
