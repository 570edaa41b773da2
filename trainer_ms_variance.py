"""Stage II: the training step with rectified pseudo labels (arXiv 2003.03773) or CRST's (arXiv 1908.09822).

The labelled batch is the target with pseudo labels, in self-training mixed with source images. Everything but
the segmentation losses is Stage I's.
"""

import torch

import trainer_ms
from trainer_ms import Iterator, Losses, Predictions, Tensor
from utils.losses import rectified_losses, uniform_divergence


class AD_Trainer(trainer_ms.AD_Trainer):  # noqa: N801 - the published name
    """Stage I's trainer with the uncertainty-rectified losses, or, with `--conventional`, without them."""

    soft_labels: Tensor | None = None  # of the current step
    image_weights: Tensor | None = None

    def gen_update(
        self,
        *batch: Tensor | int,
        soft_labels: Tensor | None = None,
        pseudo: Tensor | None = None,
        **options: bool,
    ) -> tuple[Losses, Predictions]:
        """A step as Stage I's, with more about the labelled batch.

        Args:
            batch, options: Stage I's.
            soft_labels: (N, C, H, W), all 0 where `labels` ignores the pixel (LRENT); None: labels are hard.
            pseudo: (N,) bool, which images have pseudo labels; None: all.
        """
        args = self.args
        pseudo = batch[0].new_ones(len(batch[0]), dtype=torch.bool) if pseudo is None else pseudo
        self.soft_labels = soft_labels
        self.image_weights = torch.where(pseudo, args.mr_weight_kld, args.mr_weight_src)
        return super().gen_update(*batch, **options)

    def segmentation_losses(self, z1: Tensor, z2: Tensor, labels: Tensor) -> Iterator[Losses]:
        """seg1 and seg2, conventional or rectified, with the network's regulariser (MRKLD) added to both."""
        args = self.args
        learned = labels if self.soft_labels is None else self.soft_labels
        if args.conventional:
            groups = super().segmentation_losses(z1, z2, learned)
        else:
            options = (self.class_weight, args.ignore_label, args.divergence, args.focal)
            seg1, seg2 = self.fused(rectified_losses)(z1, z2, learned, *options)
            share = self._batch_fraction(z1)  # they are means over the batch
            groups = [{"seg1": share * seg1, "seg2": share * seg2}]
            del seg1, seg2
        for group in groups:
            if args.mr_weight_kld > 0:
                options = (labels, self.image_weights, args.ignore_label, self.processes)
                for name, z in (("seg1", z1), ("seg2", z2)):
                    if name in group:
                        group[name] = group[name] + args.mr_weight_kld * self.fused(uniform_divergence)(
                            z, *options
                        )
            yield group
