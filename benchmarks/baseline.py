"""Baseline of `step.py`: the two stages' steps as a competent first version implements them.

The same networks and equations, with torch's default precision and memory format, float images from the CPU,
one backward pass for both batches, gradients for all parameters, losses read every iteration, NumPy's
percentile, and one optimiser call per repeated update.
"""

from argparse import Namespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.deeplab_multi import DeeplabMulti
from model.ms_discriminator import MsImageDis
from utils.optim import published_repeats
from utils.preprocess import MEAN_BGR

IGNORED = 255


def float_batch(batch: dict) -> dict:
    """The batch a data set with float images would load: BGR minus mean (N, 3, H, W), labels int64."""
    images = batch["image"].numpy()[..., ::-1].astype(np.float32) - np.array(MEAN_BGR, np.float32)
    return dict(image=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), label=batch["label"].long())


class BaselineTrainer(nn.Module):
    """The step of Stage I or, with `rectified`, of Stage II."""

    def __init__(self, args: Namespace, rectified: bool):
        super().__init__()
        self.args, self.rectified = args, rectified
        self.G = DeeplabMulti(
            args.num_classes, args.use_se, args.train_bn, args.norm_style, args.droprate, args.arch
        )
        self.D1, self.D2 = MsImageDis(args.num_classes), MsImageDis(args.num_classes)
        rate, sgd = args.learning_rate, dict(momentum=args.momentum, nesterov=True)
        sgd["weight_decay"] = args.weight_decay
        backbone = {key: p for key, p in self.G.backbone_parameters().items() if p.requires_grad}
        # One optimiser per number of updates, as in the released code.
        self.sgd = [(torch.optim.SGD(self.G.classifier_parameters().values(), lr=10 * rate, **sgd), 1)]
        for repeats in (1, 3, 4):
            params = [p for key, p in backbone.items() if published_repeats(key) == repeats]
            self.sgd.append((torch.optim.SGD(params, lr=rate, **sgd), repeats))
        self.adam = [
            torch.optim.Adam(D.parameters(), args.learning_rate_D, (0.9, 0.99)) for D in (self.D1, self.D2)
        ]
        self.register_buffer("often", torch.ones(args.num_classes))

    def step(self, labelled: dict, target: dict) -> dict[str, float]:
        """An iteration after `--reg-start` on two batches of `float_batch`; returns its losses."""
        args, device = self.args, self.often.device
        images, labels = labelled["image"].to(device), labelled["label"].to(device)
        images_t = target["image"].to(device)
        z1, z2 = self.segment(images)
        z1_t, z2_t = self.segment(images_t)
        weight = self.class_weight(labels)
        if self.rectified:
            seg1 = self.rectified_loss(z1, z2, labels, weight)
            seg2 = self.rectified_loss(z2, z1, labels, weight)
        else:
            seg1, seg2 = self.hard_loss(z1, labels, weight), self.hard_loss(z2, labels, weight)
        total = seg2 + args.lambda_seg * seg1
        losses = dict(seg1=seg1.item(), seg2=seg2.item())
        adversarial = args.lambda_adv_target1 > 0 and args.lambda_adv_target2 > 0
        if adversarial:
            adv1, adv2 = self.D1.gen_loss(F.softmax(z1_t, 1)), self.D2.gen_loss(F.softmax(z2_t, 1))
            total = total + args.lambda_adv_target1 * adv1 + args.lambda_adv_target2 * adv2
            losses |= dict(adv1=adv1.item(), adv2=adv2.item())
        if args.lambda_kl_target > 0:
            kl = self.memory_loss(z1_t, z2_t)
            total = total + args.lambda_kl_target * kl
            losses |= dict(kl=kl.item())
        total.backward()
        for optimizer, repeats in self.sgd:
            for _ in range(repeats):
                optimizer.step()
            optimizer.zero_grad()
        if adversarial:
            losses |= self.train_discriminators(z1.detach(), z2.detach(), z1_t.detach(), z2_t.detach())
        return losses

    def segment(self, images: Tensor) -> list[Tensor]:
        """Logits of both classifiers at the images' size."""
        size = images.shape[2:]
        return [F.interpolate(z, size, mode="bilinear", align_corners=True) for z in self.G(images)]

    def class_weight(self, labels: Tensor) -> Tensor:
        """`--class-balance` and `--often-balance`, class by class."""
        args, weight = self.args, torch.ones(self.args.num_classes)
        for c in range(args.num_classes):
            count = (labels == c).sum().item()
            if count < 64 * 64 * len(labels):
                weight[c] = args.max_value
            self.often[c] = 0.9 * self.often[c] + 0.1 * (args.max_value if count == 0 else 1)
        return weight.to(self.often.device) * self.often

    def hard_loss(self, z: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Cross entropy of the hardest pixels."""
        with torch.no_grad():
            losses = F.cross_entropy(z, labels, weight, ignore_index=IGNORED, reduction="none")
            threshold = np.percentile(losses.cpu().numpy(), self.args.only_hard_label)
            labels = labels.clone()
            labels[losses < threshold] = IGNORED
        return F.cross_entropy(z, labels, weight, ignore_index=IGNORED)

    def rectified_loss(self, z: Tensor, other: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """Cross entropy weighted by the classifiers' agreement, plus their divergence."""
        ce = F.cross_entropy(z, labels, weight, ignore_index=IGNORED, reduction="none")
        divergence = F.kl_div(F.log_softmax(z, 1), F.softmax(other, 1), reduction="none").sum(1)
        return (ce * torch.exp(-divergence)).mean() + divergence.mean()

    def memory_loss(self, z1_t: Tensor, z2_t: Tensor) -> Tensor:
        """Divergence of each classifier from both together."""
        memory = F.softmax(0.5 * z1_t + z2_t, 1).detach()
        return sum(
            F.kl_div(F.log_softmax(z, 1), memory, reduction="none").sum(1).mean() for z in (z1_t, z2_t)
        )

    def train_discriminators(self, z1: Tensor, z2: Tensor, z1_t: Tensor, z2_t: Tensor) -> dict[str, float]:
        """One step of both discriminators."""
        losses = {}
        real = F.softmax(0.5 * z1 + z2, 1)
        networks = (("D1", self.D1, z1_t), ("D2", self.D2, z2_t))
        for (name, D, fake), optimizer in zip(networks, self.adam, strict=True):
            optimizer.zero_grad()
            loss, _ = D.dis_loss(F.softmax(fake, 1), real)
            loss.backward()
            optimizer.step()
            losses[name] = loss.item()
        return losses
