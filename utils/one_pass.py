"""A network together with what surrounds it: pictures in, labels out, in a single pass."""

from torch import Tensor, nn

from model.deeplab_multi import DeeplabMulti
from utils.losses import fuse
from utils.preprocess import to_network_input
from utils.uncertainty import classifier_divergence
from utils.upsampling import upsample


class SingleScaleModel(nn.Module):
    """Segments pictures at one scale without a mirror image: the fast mode, and what ONNX files hold.

    Args:
        network: in evaluation mode.
        logits: return the two classifiers' joint logits (N, C, h/8, w/8) as well.
    """

    def __init__(self, network: DeeplabMulti, logits: bool = False):
        super().__init__()
        self.network, self.logits = network, logits

    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        """RGB (N, h, w, 3) uint8 -> label uint8, score and uncertainty, each (N, H, W).

        As in `utils.inference` the probabilities, not the logits, are upsampled.

        Args:
            size: H, W of the results; None: the pictures' own.
        """
        size = tuple(images.shape[1:3]) if size is None else size
        aux, main = self.network(to_network_input(images))
        logits = fuse(aux, main)
        score, label = upsample(logits.softmax(1), size).max(1)
        uncertainty = upsample(classifier_divergence(aux, main)[:, None], size)[:, 0]
        results = label.byte(), score, uncertainty
        return (*results, logits) if self.logits else results
