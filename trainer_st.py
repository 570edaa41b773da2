"""Online self-training: one step of DACS (arXiv 2007.08702), DAFormer (2111.14887) and MIC (2212.01322).

`AD_Trainer.gen_update` is one step, top to bottom: teacher, labelled batch, target batch where Stage I learns
from it, pseudo labels, mixed batch, masked batch, one update. The equations are in utils/self_training.py.
"""

import copy
from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import trainer_ms
from dataset.augment import blur, jitter
from model.projection import LastStage
from model.weights import WeightsError, has_imagenet_weights, holds_backbone, load_weights
from trainer_ms import Iterator, Losses, Predictions
from utils.contrast import View, uniform_draws
from utils.device import to_device
from utils.losses import fuse
from utils.preprocess import from_unit_rgb, to_unit_rgb
from utils.self_training import (
    block_mask,
    class_mask,
    draw_classes,
    feature_distance,
    label_target,
    mix,
    present_classes,
    update_teacher,
    weighted_cross_entropy,
)
from utils.uncertainty import classifier_divergence

PURPOSES = ("classes", "mask", "mixed", "masked")  # of random numbers
FIRST_PURPOSE, FIRST_COLOUR = 10, 20  # uses of the seed; those below are the streams' and others'


class AD_Trainer(trainer_ms.AD_Trainer):  # noqa: N801 - the published name
    """Stage I's trainer with a `teacher`, an average of `G`, whose labels the mixed and masked batches learn.

    The teacher is in training mode without dropout: its normalisation uses the target batch, as published.
    """

    def __init__(self, args: Namespace):
        super().__init__(args)
        self.teacher = copy.deepcopy(self.G).requires_grad_(False)
        self.teaches = args.self_training or args.lambda_mask > 0
        self._reference: list[nn.Module] = []  # in a list: no part of the state
        if args.lambda_fd:
            self.kept_channels = self.G.layer6.in_channels - self.G.layer5.in_channels
        self.train()

    @property
    def weights(self) -> dict[str, float]:
        """Stage I's, and those of both classifiers' losses on the mixed and the masked batch."""
        args, weights = self.args, super().weights
        if args.self_training:
            weights |= {"mix1": args.lambda_mix * args.lambda_seg, "mix2": args.lambda_mix}
        if args.lambda_fd:
            weights["fd"] = args.lambda_fd
        if args.lambda_mask:
            weights |= {"masked1": args.lambda_mask * args.lambda_seg, "masked2": args.lambda_mask}
        return weights

    def train(self, mode: bool = True) -> "AD_Trainer":
        """As Stage I's; the teacher is in evaluation mode but for its batch normalisation."""
        super().train(mode)
        if hasattr(self, "teacher"):  # not yet in Stage I's constructor
            self.teacher.eval()
            for module in self.teacher.modules():
                if isinstance(module, _BatchNorm):
                    module.train(mode and self.args.is_training)
        return self

    def needs_target(self, i_iter: int) -> bool:
        """As Stage I's; the teacher labels every target batch."""
        return self.teaches or super().needs_target(i_iter)

    def gen_update(
        self,
        images: Tensor,
        images_t: Tensor,
        labels: Tensor,
        labels_t: Tensor | None,
        i_iter: int,
        update: bool = True,
        views: Sequence[View] = (),
    ) -> tuple[Losses, Predictions]:
        """One step as Stage I's.

        The losses also hold mix1 mix2 and masked1 masked2, each where switched on, and `share`, the share of
        confident pixels. Where Stage I learns nothing from the target, its predictions are the teacher's.
        """
        args, self.i_iter = self.args, i_iter
        if not self.teaches:
            return super().gen_update(images, images_t, labels, labels_t, i_iter, update, views)
        if i_iter == 0 and self._accumulated == 0:
            # With the statistics, which --is-training False reads.
            self.teacher.load_state_dict(self.G.state_dict())
        elif self._accumulated == 0:
            update_teacher(self.teacher, self.G, i_iter, args.teacher_alpha)
        learns = self._learns_from_target(i_iter)
        losses = {name: images.new_zeros(()) for name in (*self.weights, "val")}
        self.class_weight = self.compute_class_weight(labels)
        losses |= self._learn((), self.parameter_losses, images)[0]

        found, (z1, z2) = self.learn_from_source(images, labels, last=False)
        losses |= found
        with torch.no_grad():
            z_t = self.segment(images_t, self.teacher)
        pseudo, weight, share = self.label_target(*z_t)
        if learns:
            found, z_t = self.learn_from_target(images_t, i_iter, learns, last=False)
            losses |= found
        if views:
            losses |= self.learn_from_views(views, last=False)

        if args.self_training:
            mask = self._class_masks(labels)
            mixed = self._augment(mix(mask, images, images_t), "mixed")
            mixed_labels, mixed_weight = mix(mask, labels, pseudo), weight.masked_fill(mask, 1)
            last = update and not args.lambda_mask
            losses |= self._learn_pseudo_labels("mix", mixed, mixed_labels, mixed_weight, last)
            del mixed
        if args.lambda_mask:
            masked = self._augment(images_t, "masked") * self._block_masks(images_t)
            losses |= self._learn_pseudo_labels("masked", masked, pseudo, weight, update)

        self._accumulated += 1
        if update:
            self.update_network()
        if labels_t is not None:
            losses["val"] = self._validation_loss(z_t[1], labels_t)
        return self._reduce_losses(losses) | {"share": share}, (z1, z2, *z_t)

    def load_reference(self) -> None:
        """Load the frozen network of the feature distance, which is no part of the state.

        Raises:
            WeightsError: the weights of `--imnet-from` cannot be used.
        """
        args, network = self.args, copy.deepcopy(self.G).requires_grad_(False)
        if args.imnet_from is None:
            start = args.restore_from
            named = start not in ("imagenet", "none") and holds_backbone(start)
            args.imnet_from = start if named else "imagenet"  # opts.yaml holds it for --resume
        if args.imnet_from == "imagenet" and not has_imagenet_weights(args.arch):
            raise WeightsError(
                f"--lambda-fd: --arch {args.arch} has no ImageNet weights to compare with; give --imnet-from "
                "a snapshot of such a network"
            )
        try:
            load_weights(network, args.imnet_from, restore_classifiers=False)
        except WeightsError as error:
            raise WeightsError(str(error).replace("--restore-from", "--imnet-from")) from error
        self._reference.append(LastStage(network.eval()))

    def segment(
        self, images: Tensor, network: nn.Module | None = None, head: str | None = None, kept: int = 0
    ) -> tuple[Tensor, ...]:
        """As Stage I's; behind features that are kept, the reference's."""
        if not kept:
            return super().segment(images, network, head)
        if not self._reference:
            self.load_reference()
        with torch.no_grad():
            reference = self.run(self._reference[0], images)
        return *super().segment(images, network, head, kept), *reference

    def source_losses(self, z1: Tensor, z2: Tensor, labels: Tensor, *more: Tensor) -> Iterator[Losses]:
        """Stage I's and, with `--lambda-fd`, fd."""
        *projected, stage4, reference = more if self.kept_channels else (*more, None, None)
        yield from super().source_losses(z1, z2, labels, *projected)
        if self.kept_channels:
            options = dict(ignore_index=self.args.ignore_label, across=self.processes, centred=True)
            yield {"fd": feature_distance(stage4, reference, labels, self.args.fd_classes, **options)}

    def label_target(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (N, H, W) of the teacher's logits, their weights (N, H, W), and the share of sure pixels."""
        args = self.args
        divergence = classifier_divergence(z1, z2) if args.pseudo_weight in ("uncertainty", "both") else None
        margins = args.pseudo_margins
        options = (args.pseudo_threshold, *margins, args.pseudo_weight, divergence, self.processes)
        return label_target(fuse(z1, z2), *options)

    def teacher_snapshot(self) -> dict[str, Tensor]:
        """The teacher with the keys of `G` and its statistics: the own ones are not meant to be read.

        Empty where nothing learns from a teacher.
        """
        return self.G.state_dict() | dict(self.teacher.named_parameters()) if self.teaches else {}

    def random_numbers(self, purpose: str, i_iter: int, image: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers for image `image` of an update's whole batch; they depend on nothing else."""
        options = self.args.random_seed, FIRST_PURPOSE + PURPOSES.index(purpose), i_iter
        return uniform_draws(*options, range(image, image + 1), shape, self.often_weight.device)[0]

    def _learn_pseudo_labels(
        self, name: str, images: Tensor, labels: Tensor, weight: Tensor, last: bool
    ) -> Losses:
        """Accumulate the gradients of both classifiers' weighted cross entropies."""

        def terms(z1: Tensor, z2: Tensor) -> Iterator[Losses]:
            share = self._batch_fraction(z1)  # they are means over the batch
            for number, z in enumerate((z1, z2), start=1):
                loss = self.fused(weighted_cross_entropy)(z, labels, weight, self.args.ignore_label)
                yield {f"{name}{number}": share * loss}

        with self._defer_all_reduce(last):
            return self._learn(self.segment(images), terms)[0]

    def _class_masks(self, labels: Tensor) -> Tensor:
        """ClassMix: which pixels of the labelled images are pasted, (N, H, W)."""
        classes = self.args.num_classes
        pairs = zip(labels, self._numbers_of_batch("classes", labels, (classes + 1,)), strict=True)
        chosen = ((label, draw_classes(present_classes(label, classes), rank)) for label, rank in pairs)
        return torch.stack([class_mask(*pair) for pair in chosen])

    def _block_masks(self, images: Tensor) -> Tensor:
        """MIC: which pixels stay visible, (N, 1, H, W)."""
        args, size = self.args, images.shape[2:]
        grid = (1, *(max(1, round(side / args.mask_block)) for side in size))
        return block_mask(self._numbers_of_batch("mask", images, grid), size, args.mask_ratio)

    def _augment(self, images: Tensor, purpose: str) -> Tensor:
        """Colour jitter and blur of the whole batch, each by chance."""
        args, (chance, other) = self.args, self._draws(purpose, 0).random(2)
        if chance >= args.jitter_chance and other >= args.blur_chance:
            return images
        rgb = to_unit_rgb(images)
        if chance < args.jitter_chance:
            draws = [self._draws(purpose, 1 + image) for image in self.images_of(images)]
            rgb = jitter(rgb, args.jitter, draws)
        if other < args.blur_chance:
            rgb = blur(rgb, self._numbers_of_batch(purpose, images, ()))
        return from_unit_rgb(rgb)

    def _numbers_of_batch(self, purpose: str, batch: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`random_numbers` of each image on the device, (N, *shape)."""
        numbers = [self.random_numbers(purpose, self.i_iter, image, shape) for image in self.images_of(batch)]
        return to_device(torch.stack(numbers), batch.device)

    def _draws(self, purpose: str, number: int) -> np.random.Generator:
        """For what is drawn on the CPU, of an image or, with number 0, of the batch."""
        key = FIRST_COLOUR + PURPOSES.index(purpose)
        return np.random.default_rng((self.args.random_seed, key, self.i_iter, number))
