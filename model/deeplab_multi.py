"""Multi-scale DeepLab-v2 with an auxiliary and a primary classifier (MRNet, section 3 and figure 2).

The parameter names are those of the published checkpoints. The residual blocks have the Caffe arrangement;
the classifiers are atrous spatial pyramids.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

NORM_STYLES = ("bn", "in", "gn", "ln")
STRIDE = 8  # image pixels per logit cell (output stride)
GROUPS = 32  # of group normalisation
DILATIONS = (6, 12, 18, 24)  # of the 3x3 branches of a classifier
SE_REDUCTION = 16
CLASSIFIERS = ("layer5.", "layer6.")  # prefixes of their parameters' names


class Arch(NamedTuple):
    """Sizes of a network; every size has the same structure and the same parameter names."""

    blocks: tuple[int, int, int, int]  # per stage
    width: int  # planes of the first stage, doubled in each following stage
    branch: int  # channels of each dilated branch of a classifier
    bottleneck: int  # channels of a classifier's bottleneck


ARCHS = {
    "resnet101": Arch(blocks=(3, 4, 23, 3), width=64, branch=256, bottleneck=512),
    # The demo's network: small enough to learn from random weights on two CPU cores within minutes.
    "mini": Arch(blocks=(1, 2, 3, 1), width=8, branch=32, bottleneck=64),
}


def norm_layer(style: str, channels: int) -> nn.Module:
    """Normalisation of a classifier: batch, instance (affine), group (32) or layer norm (one group)."""
    if style == "bn":
        return BatchNorm(channels)
    if style == "in":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm({"gn": GROUPS, "ln": 1}[style], channels)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that leaves `num_batches_tracked` alone.

    Counting is a GPU operation per layer, for a number that matters only without a momentum
    (`torch.optim.swa_utils.update_bn`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if self.momentum is None:
            return super().forward(x)
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)


class CaffeBottleneck(nn.Module):
    """1x1, 3x3 (dilated) and 1x1 convolutions around a shortcut, with the stride in the first, as in Caffe.

    Its parameters have the names of torchvision's block, whose import would cost each process 1.3 s.
    """

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, dilation: int, shortcut: bool):
        super().__init__()
        channels = planes * self.expansion
        downsample = None  # drawn before the other convolutions, but listed behind them
        if shortcut:
            downsample = nn.Sequential(
                nn.Conv2d(inplanes, channels, 1, stride, bias=False), BatchNorm(channels)
            )
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride, bias=False)
        self.bn1 = BatchNorm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = BatchNorm(planes)
        self.conv3 = nn.Conv2d(planes, channels, 1, bias=False)
        self.bn3 = BatchNorm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) -> (N, 4 planes, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class SEBlock(nn.Module):
    """Squeeze and excitation: scales each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // SE_REDUCTION
        self.se = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return x * self.se(x.mean((2, 3)))[:, :, None, None]


class Classifier(nn.Module):
    """Five parallel dilated branches, squeeze and excitation, a 3x3 bottleneck, dropout, 1x1 classes."""

    def __init__(
        self, in_channels: int, num_classes: int, use_se: bool, norm_style: str, droprate: float, arch: Arch
    ):
        super().__init__()
        self.in_channels, self.hidden_channels = in_channels, arch.bottleneck
        kernels = [dict(kernel_size=1)]
        kernels += [dict(kernel_size=3, padding=d, dilation=d) for d in DILATIONS]
        self.conv2d_list = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, arch.branch, **kernel),
                norm_layer(norm_style, arch.branch),
                nn.ReLU(inplace=True),
            )
            for kernel in kernels
        )
        joined = len(kernels) * arch.branch
        conv = nn.Conv2d(joined, arch.bottleneck, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, a=0, mode="fan_in")
        nn.init.zeros_(conv.bias)
        gate = [SEBlock(joined)] if use_se else []
        self.bottleneck = nn.Sequential(*gate, conv, norm_layer(norm_style, arch.bottleneck))
        classes = nn.Conv2d(arch.bottleneck, num_classes, 1, bias=False)
        nn.init.normal_(classes.weight, std=0.001)
        self.head = nn.Sequential(nn.Dropout2d(droprate), classes)

    def forward(self, x: Tensor, hidden: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W).

        With `hidden` also the map before dropout and classes, (N, hidden_channels, H, W).
        """
        x = self.bottleneck(torch.cat([branch(x) for branch in self.conv2d_list], 1))
        return (self.head(x), x) if hidden else self.head(x)


class TwoClassifiers(nn.Module):
    """A backbone with an auxiliary classifier on its last stage but one and a primary one on the last two.

    A subclass has `stages`, which returns their maps.
    """

    checkpointing = False
    repeats_updates = decays_all = True  # of its optimisers (utils/optim.py)

    def add_classifiers(self, stage3: int, stage4: int, *options: object) -> None:
        """Build both for stages of so many channels; `options` of `Classifier`."""
        self.layer5 = Classifier(stage3, *options)
        self.layer6 = Classifier(stage4 + stage3, *options)

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters outside the classifiers, by name."""
        return {k: p for k, p in self.named_parameters() if not k.startswith(CLASSIFIERS)}

    def classifier_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the two classifiers, by name."""
        return {k: p for k, p in self.named_parameters() if k.startswith(CLASSIFIERS)}

    def forward(self, x: Tensor, features: str | None = None) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W), BGR minus mean -> auxiliary and primary logits (N, num_classes, H/8, W/8).

        With `features` also a map of the primary classifier: its "input", stage 4 and behind it stage 3
        (N, 3072, H/8, W/8), or "hidden", the one before dropout and classes (N, 512, H/8, W/8).
        """
        stage3, stage4 = self.stages(x)
        joined = torch.cat((stage4, stage3), 1)
        if features == "hidden":
            return self.layer5(stage3), *self.layer6(joined, hidden=True)
        logits = self.layer5(stage3), self.layer6(joined)
        return (*logits, joined) if features == "input" else logits


class DeeplabMulti(TwoClassifiers):
    """ResNet backbone at stride 8 with a classifier on stage 3 and one on stages 4 and 3 concatenated.

    `layer5` is the auxiliary classifier, `layer6` the primary one. The affine parameters of the backbone's
    batch normalisation train only with `train_bn`; its statistics follow the module's training mode.
    With `checkpointing`, each residual block is recomputed in the backward pass from its input: less
    memory, a third more computation in the backbone, the same result.
    """

    def __init__(
        self,
        num_classes: int,
        use_se: bool = False,
        train_bn: bool = False,
        norm_style: str = "bn",
        droprate: float = 0.1,
        arch: str = "resnet101",
    ):
        super().__init__()
        sizes = ARCHS[arch]
        planes = [sizes.width * 2**stage for stage in range(4)]
        self.conv1 = nn.Conv2d(3, sizes.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(sizes.width)
        self.relu = nn.ReLU(inplace=True)
        # ceil_mode: the Caffe rounding, which keeps (size - 1) / 8 + 1 cells for odd sizes.
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        self.inplanes = sizes.width
        self.layer1 = self._stage(planes[0], sizes.blocks[0])
        self.layer2 = self._stage(planes[1], sizes.blocks[1], stride=2)
        self.layer3 = self._stage(planes[2], sizes.blocks[2], dilation=2)
        self.layer4 = self._stage(planes[3], sizes.blocks[3], dilation=4)
        stage3, stage4 = (p * CaffeBottleneck.expansion for p in planes[2:])
        self._init_backbone(train_bn)
        self.add_classifiers(stage3, stage4, num_classes, use_se, norm_style, droprate, sizes)

    def _stage(self, planes: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
        stage = []
        for index in range(blocks):
            first = index == 0
            stage.append(CaffeBottleneck(self.inplanes, planes, stride if first else 1, dilation, first))
            self.inplanes = planes * CaffeBottleneck.expansion
        return nn.Sequential(*stage)

    def _init_backbone(self, train_bn: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(train_bn)

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W), BGR minus mean -> maps (N, 1024, H/8, W/8) and (N, 2048, H/8, W/8)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = self._run(stage, x)
        return x, self._run(self.layer4, x)

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return stage(x)
        for block in stage:

            def contexts(block: nn.Module = block) -> tuple:  # of the forward pass and of the recomputation
                return contextlib.nullcontext(), _frozen_running_statistics(block)

            # A block draws no random numbers, so there is no RNG state to preserve.
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=False)
        return x


@contextlib.contextmanager
def _frozen_running_statistics(block: nn.Module) -> Iterator[None]:
    """Recomputation must not update the running statistics a second time: it writes to temporary buffers."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(norm, dict(norm._buffers)) for norm in norms]
    for norm, buffers in kept:
        norm._buffers.update({name: torch.empty_like(buffer) for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
