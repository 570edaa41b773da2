"""Stage II: the training step with rectified pseudo labels (arXiv 2003.03773).

The labelled batch is the target with pseudo labels. Everything but the segmentation losses is Stage I's.
"""

import trainer_ms
from trainer_ms import Losses, Tensor
from utils.losses import rectified_losses


class AD_Trainer(trainer_ms.AD_Trainer):  # noqa: N801 - the published name
    """Stage I's trainer with the uncertainty-rectified losses, or, with `--conventional`, without them."""

    def segmentation_losses(self, z1: Tensor, z2: Tensor, labels: Tensor) -> Losses:
        args = self.args
        if args.conventional:
            return super().segmentation_losses(z1, z2, labels)
        seg1, seg2 = rectified_losses(
            z1, z2, labels, self.class_weight, args.ignore_label, divergence=args.divergence
        )
        share = self._batch_fraction(z1)  # they are means over the batch
        return {"seg1": share * seg1, "seg2": share * seg2}
