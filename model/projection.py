"""Projection heads of contrastive losses (PiPa, arXiv 2211.07609), used in training only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.deeplab_multi import BatchNorm


class Head(nn.Module):
    """Two 1x1 convolutions to embeddings of norm 1, always computed in the head's own precision."""

    def __init__(self, channels: int, dim: int, *norm: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 1), *norm, nn.ReLU(inplace=True), nn.Conv2d(channels, dim, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, dim, H, W)."""
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.layers(features.to(self.layers[0].weight.dtype)))


class PixelHead(Head):
    """The head of the pixel contrast, which reads the primary classifier's input."""

    reads = "input"

    def __init__(self, channels: int, dim: int = 256):
        super().__init__(channels, dim, BatchNorm(channels))


class PatchHead(Head):
    """The head of the patch contrast, which reads the primary classifier's hidden map."""

    reads = "hidden"

    def __init__(self, channels: int, dim: int = 128):
        super().__init__(channels, dim)


class Projected(nn.Module):
    """A network with a head: images -> auxiliary and primary logits, and embeddings of the same cells.

    Args:
        head: None: no embeddings.
        features: the map that the head reads, as in `DeeplabMulti.forward`.
        kept: so many channels of this map are returned last; of the "input" the first ones are stage 4.
    """

    def __init__(self, network: nn.Module, head: nn.Module | None, features: str, kept: int = 0):
        super().__init__()
        self.network, self.head, self.features, self.kept = network, head, features, kept

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> two of (N, C, H/8, W/8), (N, dim, H/8, W/8), (N, kept, H/8, W/8)."""
        *logits, features = self.network(images, features=self.features)
        embeddings = [self.head(features)] if self.head else []
        return *logits, *embeddings, *([features[:, : self.kept]] if self.kept else [])


class LastStage(nn.Module):
    """The last map of a network's backbone: images (N, 3, H, W) -> (N, K, H/8, W/8), in a tuple."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """As above; the classifiers are left out."""
        return (self.network.stages(images)[1],)
