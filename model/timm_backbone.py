"""Backbones of timm under the two classifiers: `--arch timm/NAME`. timm is imported only when one is named.

The backbone's last map but one stands for `layer3`, its last for `layer4`: dilated to stride 8 where the
model can be, else with its own strides, the coarser map brought to the size of the finer.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.deeplab_multi import ARCHS, STRIDE, Arch, TwoClassifiers

PREFIX = "timm/"
MEAN_RGB = (122.67891434, 116.66876762, 104.00698793)  # what images come without
SMALL = 256  # channels of the last map up to which the classifiers are as small as mini's
# How the families are told that images have any size; the others take them without, or refuse.
ANY_SIZE = (dict(dynamic_img_size=True, dynamic_img_pad=True), dict(dynamic_img_size=True))
ANY_SIZE += (dict(strict_img_size=False), {})
HUB = "https://huggingface.co/{}/resolve/main/{}"  # repository, file
LONGEST_REASON = 160  # characters of a library's message


class ArchError(Exception):
    """Why a name cannot be used, in one line."""


class Plan(NamedTuple):
    """How to use a model of timm."""

    name: str
    options: dict  # of `timm.create_model`
    multiple: int  # the sides of images are padded to multiples of it
    strides: list[int]  # of the two maps
    channels: list[int]
    channels_last: bool
    patches: bool  # whether a cell lies in the middle of its pixels, and not on the first of them
    unused: list[str]  # parameters that the maps do not depend on
    batch_norm: bool
    checkpointing: bool
    url: str | None  # of the pretrained weights

    @property
    def sizes(self) -> Arch:
        """Of the classifiers."""
        return ARCHS["mini" if self.channels[1] <= SMALL else "resnet101"]


def import_timm() -> ModuleType:
    """timm; an ArchError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise ArchError(f"needs {error.name}: pip install -r requirements-timm.txt") from error
    return timm


@lru_cache
def make_plan(arch: str) -> Plan:
    """How to use the model `timm/NAME`, found out on torch's meta device: without weights and data.

    Raises:
        ArchError: it is unknown, or its maps cannot be used.
    """
    timm, name = import_timm(), arch.removeprefix(PREFIX)
    if not timm.is_model(name):
        alike = timm.list_models(f"*{name[:6]}*")[:3] if name else ()
        advice = f"did you mean {' or '.join(alike)}" if alike else "timm.list_models() lists them"
        raise ArchError(f"is not a model of timm; {advice}")
    for options, dilation in product(ANY_SIZE, (dict(output_stride=STRIDE), {})):
        try:
            return _probe(timm, name, options | dilation)
        except Exception as error:  # models refuse in many ways
            reason = " ".join(str(error).split()) or type(error).__name__
    raise ArchError(f"cannot be a backbone for images of any size ({reason[:LONGEST_REASON]})")


def _probe(timm: ModuleType, name: str, options: dict) -> Plan:
    """The plan with these options; raises whatever the model does where they do not work."""
    with torch.device("meta"):
        stages = timm.create_model(name, features_only=True, **options).feature_info.info
        last = len(stages) - 1
        # A plain transformer's blocks are not stages: the last of the third quarter stands for `layer3`.
        plain = last > 3 and len({stage["reduction"] for stage in stages[-4:]}) == 1
        options |= dict(out_indices=(3 * len(stages) // 4 - 1 if plain else last - 1, last))
        network = timm.create_model(name, features_only=True, **options)
    strides, channels = network.feature_info.reduction(), network.feature_info.channels()
    channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
    weights = network.pretrained_cfg
    stem = next(module for module in network.modules() if isinstance(module, nn.Conv2d))

    def check(multiple: int) -> Exception | None:
        try:
            for height, width in ((2 * multiple, 3 * multiple), (3 * multiple, multiple)):
                maps = _channels_first(
                    network(torch.empty(2, 3, height, width, device="meta")), channels_last
                )
                found = [tuple(x.shape[1:]) for x in maps]
                if found != [(c, height // s, width // s) for c, s in zip(channels, strides, strict=True)]:
                    raise ValueError(f"its last maps of {width}x{height} pixels are {found}")
            sum(x.sum() for x in maps).backward()
        except Exception as error:
            return error

    # Windows and folded patches need sides that are multiples of more than a cell.
    for multiple in (max(strides), 4 * max(strides), weights["input_size"][-1]):
        if not (error := check(multiple)):
            break
    else:
        raise error
    batch_norm = any(isinstance(module, _BatchNorm) for module in network.modules())
    url = weights.get("url") or None
    if hub := weights.get("hf_hub_id"):
        url = HUB.format(hub, weights.get("hf_hub_filename") or "model.safetensors")
    return Plan(
        *(name, options, multiple, strides, channels, channels_last, stem.kernel_size == stem.stride),
        unused=[key for key, p in network.named_parameters() if p.grad is None],
        batch_norm=batch_norm,
        # Recomputing a block updates the statistics of batch normalisation a second time.
        checkpointing=not batch_norm and _checkpointing(network) is not None,
        url=url,
    )


def _channels_first(maps: list[Tensor], channels_last: bool) -> list[Tensor]:
    return [x.permute(0, 3, 1, 2) for x in maps] if channels_last else maps


def _checkpointing(network: nn.Module) -> Callable[[bool], None] | None:
    """timm's switch of gradient checkpointing."""
    return getattr(getattr(network, "model", network), "set_grad_checkpointing", None)


class TimmNetwork(TwoClassifiers):
    """A backbone of timm, used as `DeeplabMulti` is; the normalisation of images it expects is part of it."""

    repeats_updates = decays_all = False

    def __init__(
        self, num_classes: int, use_se: bool, train_bn: bool, norm_style: str, droprate: float, arch: str
    ):
        super().__init__()
        self.plan = make_plan(arch)
        self.backbone = import_timm().create_model(self.plan.name, features_only=True, **self.plan.options)
        for module in self.backbone.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(train_bn)
        for key in self.plan.unused:
            self.backbone.get_parameter(key).requires_grad_(False)
        # From BGR in 0 ... 255 minus the mean to RGB in 0 ... 1, normalised as the weights expect it.
        mean, std = (torch.tensor(self.backbone.pretrained_cfg[name]) for name in ("mean", "std"))
        scale, shift = 1 / (255 * std), (torch.tensor(MEAN_RGB) / 255 - mean) / std
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)
        self.add_classifiers(*self.plan.channels, num_classes, use_se, norm_style, droprate, self.plan.sizes)

    def set_checkpointing(self, enable: bool) -> None:
        """Let timm recompute blocks in the backward pass, or not."""
        if self.plan.checkpointing:
            _checkpointing(self.backbone)(enable)

    checkpointing = property(fset=set_checkpointing)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W), BGR minus mean -> the last two maps, both (N, channels, H/s + 1, W/s + 1).

        s is the finer stride. As in the published network cell k lies on pixel s * k: the first patches begin
        half a cell outside.
        """
        plan, stride, size = self.plan, min(self.plan.strides), x.shape[2:]
        cells, before = [side // stride + 1 for side in size], plan.patches * (stride // 2)
        room = [max(stride * n, before + side) for n, side in zip(cells, size, strict=True)]
        after = [r + -r % plan.multiple - before - side for r, side in zip(room, size, strict=True)]
        x = F.pad(x.flip(1) * self.scale + self.shift, (before, after[1], before, after[0]))
        maps = _channels_first(self.backbone(x), plan.channels_last)
        finer = max(x.shape[2:] for x in maps)
        maps = [
            x
            if x.shape[2:] == finer
            else F.interpolate(x, finer, mode="bilinear", align_corners=not plan.patches)
            for x in maps
        ]
        return [x[:, :, : cells[0], : cells[1]] for x in maps]

    def load_pretrained(self, state: dict[str, Tensor] | None) -> None:
        """Load the model's own weights: a file's, or None: those that timm downloads or has in its cache.

        Raises:
            Exception: of any kind, as timm and its downloads fail in many ways; nothing is loaded.
        """
        options = self.plan.options | dict(pretrained=True, features_only=True)
        if state is not None:
            options["pretrained_cfg_overlay"] = dict(state_dict=state)
        loaded, again = (import_timm().create_model(self.plan.name, **options).state_dict() for _ in range(2))
        # timm passes over what the weights lack: it then has other random values each time.
        if lacking := [key for key, value in loaded.items() if not value.equal(again[key])]:
            raise ValueError(f"they lack {len(lacking)} tensors, such as {lacking[0]}")
        if bad := [key for key, value in loaded.items() if not value.isfinite().all()]:
            raise ValueError(f"{bad[0]} contains NaN or infinity")
        self.backbone.load_state_dict(loaded)
