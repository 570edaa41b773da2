"""The adversaries of the segmentation network (`--adversarial`): discriminators and both sides' losses.

Logits come in pairs, of the auxiliary and of the primary classifier. Number k of a discriminator or loss is 1
for the auxiliary and 2 for the primary one; the suffix _t marks the target.
"""

from argparse import Namespace

from torch import Tensor, nn

from model.fc_discriminator import FCDiscriminator
from model.ms_discriminator import MsImageDis
from utils.losses import adversarial_loss, disagreement_map, fuse
from utils.upsampling import upsample

SOURCE, TARGET = 0, 1  # labels of the discriminators of AdaptSegNet and CLAN

Logits = tuple[Tensor, Tensor]


class AdaptSegNet:
    """A discriminator per classifier, where its weight is above 0 (arXiv 1802.10349)."""

    def __init__(self, args: Namespace):
        self.args = args
        lambdas = {1: args.lambda_adv_target1, 2: args.lambda_adv_target2}
        self.trained = tuple(k for k, weight in lambdas.items() if weight > 0)  # of the discriminators

    def discriminators(self) -> list[nn.Module | None]:
        """D1 and D2 with new weights; None: not used."""
        return [FCDiscriminator(self.args.num_classes) if k in self.trained else None for k in (1, 2)]

    def weights(self, i_iter: int) -> dict[str, float]:
        """The weights of the losses adv1 and adv2 of the network."""
        return {"adv1": self.args.lambda_adv_target1, "adv2": self.args.lambda_adv_target2}

    def network_loss(self, D: nn.Module, k: int, z_t: Logits, i_iter: int) -> Tensor:
        """Adversarial loss k of the network, which makes the target look like the source to `D`."""
        return adversarial_loss(D(z_t[k - 1].softmax(1)), SOURCE, self.args.gan)

    def discriminator_loss(self, D: nn.Module, k: int, z: Logits, z_t: Logits, i_iter: int) -> Tensor:
        """Loss of discriminator k, `D`, on detached logits."""
        score, score_t = (D(logits[k - 1].softmax(1)) for logits in (z, z_t))
        gan = self.args.gan
        return 0.5 * adversarial_loss(score, SOURCE, gan) + 0.5 * adversarial_loss(score_t, TARGET, gan)


class MRNet(AdaptSegNet):
    """Two multi-scale discriminators, trained only if both weights are above 0 (arXiv 1912.11164)."""

    def __init__(self, args: Namespace):
        super().__init__(args)
        self.trained = self.trained if len(self.trained) == 2 else ()

    def discriminators(self) -> list[nn.Module | None]:
        return [MsImageDis(self.args.num_classes) for _ in (1, 2)]

    def network_loss(self, D: nn.Module, k: int, z_t: Logits, i_iter: int) -> Tensor:
        return D.gen_loss(z_t[k - 1].softmax(1))

    def discriminator_loss(self, D: nn.Module, k: int, z: Logits, z_t: Logits, i_iter: int) -> Tensor:
        """ "Real" is the fused prediction of the labelled batch for both."""
        return D.dis_loss(z_t[k - 1].softmax(1), fuse(*z).softmax(1))[0]


class CLAN(AdaptSegNet):
    """One discriminator of both classifiers' sum, D2; pixels count by disagreement (arXiv 1809.09478)."""

    def weights(self, i_iter: int) -> dict[str, float]:
        """adv2's decays linearly to 0."""
        left = 1 - i_iter / self.args.num_steps
        return {"adv1": 0.0, "adv2": left * self.args.lambda_adv_target2}

    def network_loss(self, D: nn.Module, k: int, z_t: Logits, i_iter: int) -> Tensor:
        """The disagreement is not detached: agreeing lowers the loss too."""
        return adversarial_loss(_score(D, z_t), SOURCE, weight=self._pixel_weight(z_t, i_iter))

    def discriminator_loss(self, D: nn.Module, k: int, z: Logits, z_t: Logits, i_iter: int) -> Tensor:
        weight = self._pixel_weight(z_t, i_iter)
        return adversarial_loss(_score(D, z), SOURCE) + adversarial_loss(
            _score(D, z_t), TARGET, weight=weight
        )

    def _pixel_weight(self, z_t: Logits, i_iter: int) -> Tensor | None:
        """epsilon + lambda_local * disagreement, (N, 1, H, W), after the warm-up; None: 1."""
        if i_iter <= self.args.warm_up:
            return None
        return self.args.epsilon + self.args.lambda_local * disagreement_map(*z_t)


def _score(D: nn.Module, z: Logits) -> Tensor:
    """CLAN's logits of a discriminator at the size of its input, (N, 1, H, W)."""
    return upsample(D((z[0] + z[1]).softmax(1)), z[0].shape[2:])


ADVERSARIES = {"mrnet": MRNet, "adaptsegnet": AdaptSegNet, "clan": CLAN}
