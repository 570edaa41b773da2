"""Networks: the segmentation network, the discriminators, and the weights they start from."""

from model.deeplab_multi import DeeplabMulti, TwoClassifiers
from model.timm_backbone import PREFIX, TimmNetwork


def build_network(*, arch: str, **options: object) -> TwoClassifiers:
    """The network of these flags (arguments of `DeeplabMulti`), with random weights."""
    return (TimmNetwork if arch.startswith(PREFIX) else DeeplabMulti)(arch=arch, **options)
