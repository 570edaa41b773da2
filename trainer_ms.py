"""Stage I: one training step of MRNet (arXiv 1912.11164).

`AD_Trainer.gen_update` is one step, top to bottom: class weights, segmentation losses of the labelled batch,
adversarial and regularising losses of the target batch, one update of the segmentation network. `dis_update`
then trains the discriminators on the same predictions. No operation here synchronises the CPU with the
GPU.
"""

import contextlib
import functools
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model import build_network
from model.projection import PatchHead, PixelHead, Projected
from utils.adversaries import ADVERSARIES
from utils.contrast import ANCHORS, BANK, PatchBank, View, contrast_cells, contrast_views, uniform_draws
from utils.device import InPrecision
from utils.distributed import SINGLE_PROCESS, Processes, wrap_ddp
from utils.losses import (
    class_pixel_counts,
    confidence_weighted_entropy,
    memory_regularization,
    rare_class_weight,
    segmentation_loss,
    update_often_weight,
    weight_discrepancy,
)
from utils.optim import build_optimizer, keep_layout, set_rate
from utils.options import network_options
from utils.schedule import cosine, poly, warmup_poly
from utils.upsampling import upsample

ADAM_BETAS = (0.9, 0.99)  # of the discriminators
DISCREPANCY_FACTOR = 2  # in the released code, beside CLAN's lambda_weight

Logits = tuple[Tensor, Tensor]  # of the auxiliary and the primary classifier
Predictions = tuple[Tensor, Tensor, Tensor, Tensor]
Losses = dict[str, Tensor]
Terms = Callable[..., Iterator[Losses]]  # logits and what else they need -> losses, in groups


class AD_Trainer(nn.Module):  # noqa: N801 - the published name
    """Network `G`, discriminators `D1` (auxiliary) and `D2` (primary), their optimisers and steps.

    A discriminator that `--adversarial` does not use is None.

    Computes in torch's default dtype on the device it is moved to. `kept_channels` of the primary
    classifier's input come with the source's logits, for what a subclass learns from them.

    Args:
        args: the flags of `utils.options.stage1_args` or `stage2_args`.
    """

    kept_channels = 0

    def __init__(self, args: Namespace):
        super().__init__()
        self.args = args
        self.G = build_network(**network_options(vars(args)))
        self.G.checkpointing = args.checkpointing
        self.adversary = ADVERSARIES[args.adversarial](args)
        self.D1, self.D2 = self.adversary.discriminators()
        self.register_buffer("often_weight", torch.ones(args.num_classes))
        self.class_weight = torch.ones(args.num_classes)  # of the current step, for the log
        self.i_iter = 0  # of the current step
        self.device_ids: list[int] = []  # with several, DataParallel splits the batch over them
        self.processes = SINGLE_PROCESS
        self._parallel: dict[str, nn.Module] = {}  # G and heads in DDP; in a dict, so registered only once
        self._accumulated = 0  # labelled batches since the last update
        with torch.random.fork_rng([]):  # whatever is drawn later stays as it is without heads
            self.heads = nn.ModuleDict()
            if args.lambda_pixel > 0:
                self.heads["pixel"] = PixelHead(self.G.layer6.in_channels)
            if args.lambda_patch > 0:
                self.heads["patch"] = PatchHead(self.G.layer6.hidden_channels)
                self.bank = PatchBank()

        self.gen_opt = build_optimizer(self.G, args, self.heads)
        self.dis_opts: dict[int, torch.optim.Adam] = {}  # of D1 and D2, those that are used
        for k, D in ((1, self.D1), (2, self.D2)):
            if D:
                D.requires_grad_(False)  # until `dis_update` trains it
                options = dict(lr=args.learning_rate_D, betas=ADAM_BETAS, fused=True)
                self.dis_opts[k] = torch.optim.Adam(D.parameters(), **options)
                self.dis_opts[k].register_step_pre_hook(keep_layout)
        self.scaler = torch.amp.GradScaler("cuda", enabled=args.precision == "fp16")
        self.train()

    def distribute(self, processes: Processes) -> None:
        """Switch to distributed training, after loading and moving the weights, which all ranks must share.

        Each rank is given its share of `args.batch_size` images; losses, class weights, hard pixels and
        gradients are those of the global batch.
        """
        self.processes = processes
        if not processes.is_distributed:
            return
        if self.args.sync_bn:
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        for name, module in (("G", self.G), *self.heads.items()):
            self._parallel[name] = wrap_ddp(module, self.often_weight.device)

    def compile(self, **options: object) -> None:
        """Compile the network with its upsampling, and each loss; for one process on one device.

        `G` itself stays as it is: validation would add graphs of its size and mode. A graph that cannot be
        compiled, whenever its turn comes, runs as it is, with a warning of torch's.

        Args:
            options: of `torch.compile`.
        """
        torch._dynamo.config.suppress_errors = True
        self.segment = torch.compile(self.segment, **options)
        self.fused = functools.cache(functools.partial(torch.compile, **options))

    @staticmethod
    def fused(loss: Callable) -> Callable:
        """The function of a loss, compiled with `--compile`."""
        return loss

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss of the segmentation network in the current step."""
        args = self.args
        weights = {
            "seg1": args.lambda_seg,
            "seg2": 1.0,
            **self.adversary.weights(self.i_iter),
            "me": args.lambda_me_target,
            "kl": args.lambda_kl_target,
        }
        if args.lambda_weight:
            weights["weight"] = poly(DISCREPANCY_FACTOR * args.lambda_weight, self.i_iter, args.num_steps, 1)
        return weights | {name: getattr(args, f"lambda_{name}") for name in self.heads}

    def adjust_learning_rates(self, i_iter: int) -> None:
        """Set the learning rates of all optimisers for iteration `i_iter`."""
        args = self.args
        decay = (i_iter, args.num_steps, args.power)
        rate = warmup_poly(args.learning_rate, *decay, args.warm_up, args.warm_up_start)
        if args.cosine:
            rate *= cosine(i_iter, args.swa_start, args.save_pred_every)
        set_rate(self.gen_opt, rate)
        warm_up = args.warm_up if args.warm_up_D else 0
        for optimizer in self.dis_opts.values():
            rate = warmup_poly(args.learning_rate_D, *decay, warm_up, args.warm_up_start)
            optimizer.param_groups[0]["lr"] = rate

    def rates(self) -> dict[str, float]:
        """The backbone's and the discriminators' current learning rates; 0 without a discriminator."""
        rates = [o.param_groups[0]["lr"] for o in (self.gen_opt, *self.dis_opts.values())]
        return {"lr": rates[0], "lr_D": rates[1] if self.dis_opts else 0.0}

    def stateful(self) -> dict[str, torch.optim.Optimizer | torch.amp.GradScaler]:
        """What is saved for resuming, beside the networks."""
        dis_opts = {f"dis{k}_opt": optimizer for k, optimizer in self.dis_opts.items()}
        return {"gen_opt": self.gen_opt} | dis_opts | {"scaler": self.scaler}

    def training_state(self) -> dict:
        """Everything the next steps depend on except RNG states: networks, class weights, optimisers."""
        states = {name: part.state_dict() for name, part in self.stateful().items()}
        return {"networks": self.state_dict()} | states

    def load_training_state(self, state: dict) -> None:
        """Restore what `training_state` returned.

        Raises:
            RuntimeError, ValueError, KeyError: it belongs to other networks or optimisers.
        """
        self.load_state_dict(state["networks"])
        for name, part in self.stateful().items():
            if name != "scaler" or state[name]:  # empty unless saved with --precision fp16
                part.load_state_dict(state[name])

    def gen_update(
        self,
        images: Tensor,
        images_t: Tensor | None,
        labels: Tensor,
        labels_t: Tensor | None,
        i_iter: int,
        update: bool = True,
        views: Sequence[View] = (),
    ) -> tuple[Losses, Predictions]:
        """One step of the segmentation network.

        Args:
            images, images_t: labelled and target batch, (N, 3, H, W), BGR minus mean.
            labels: (N, H, W) int64 train ids.
            images_t: may be None where `needs_target` is False; then its predictions are None too.
            labels_t: the target's labels, monitored as `val` and never learned from; None: `val` is 0.
            i_iter: iteration; the regularisers start at `args.reg_start`.
            update: False only accumulates gradients (`--iter-size`), for the next call with True.
            views: two of the same target images, for `--lambda-patch`.

        Returns:
            losses: 0-dimensional seg1 seg2 adv1 adv2 me kl val of the global batch; 0 for a term that is
                switched off. Also weight, pixel and patch where they are switched on.
            predictions: (z1, z2, z1_t, z2_t), detached logits (N, C, H, W) at the crop size.
        """
        self.i_iter = i_iter
        learns, z_t = self._learns_from_target(i_iter), (None, None)
        losses = {name: images.new_zeros(()) for name in (*self.weights, "val")}
        self.class_weight = self.compute_class_weight(labels)
        losses |= self._learn((), self.parameter_losses, images)[0]  # before DDP expects gradients

        # The loss is a sum, so the labelled batch is back-propagated before the target's forward pass: only
        # one batch's activations exist at a time.
        found, (z1, z2) = self.learn_from_source(images, labels, last=update and not (learns or views))
        losses |= found
        if images_t is not None:
            found, z_t = self.learn_from_target(images_t, i_iter, learns, last=update and not views)
            losses |= found
        if views:
            losses |= self.learn_from_views(views, last=update)

        self._accumulated += 1
        if update:
            self.update_network()
        if labels_t is not None:
            losses["val"] = self._validation_loss(z_t[1], labels_t)
        return self._reduce_losses(losses), (z1, z2, *z_t)

    def learn_from_source(self, images: Tensor, labels: Tensor, last: bool) -> tuple[Losses, Logits]:
        """Accumulate the gradients of the labelled batch; its losses and detached logits.

        `last`: nothing follows before the update.
        """
        with self._defer_all_reduce(last):
            outputs = self.segment(images, head="pixel", kept=self.kept_channels)
            losses, (z1, z2, *_) = self._learn(outputs, self.source_losses, labels)
        return losses, (z1, z2)

    def learn_from_target(
        self, images_t: Tensor, i_iter: int, learns: bool, last: bool
    ) -> tuple[Losses, Logits]:
        """The same for the target batch; without `learns` only a forward pass."""
        with self._defer_all_reduce(last), torch.set_grad_enabled(learns):
            return self._learn(self.segment(images_t), self.target_losses, i_iter)

    def learn_from_views(self, views: Sequence[View], last: bool) -> Losses:
        """The same for two views of target images; only the losses."""

        def terms(*outputs: Tensor) -> Iterator[Losses]:
            first = self._accumulated * self.args.batch_size
            images = range(first, first + self.args.batch_size)
            ranks = [self.draws(use, outputs[3], images) for use in BANK]
            options = views, ranks, self.bank, self.processes
            yield {"patch": contrast_views(outputs[2::4], outputs[3::4], *options)}

        with self._defer_all_reduce(last):
            outputs = [output for view in views for output in self.segment(view.images, head="patch")]
            return self._learn(outputs, terms)[0]

    def update_network(self) -> None:
        """Update `G` with the accumulated gradients, and clear them."""
        self._accumulated = 0
        self.scaler.step(self.gen_opt)
        self.scaler.update()
        # DDP's gradients are parts of its messages; without them it would keep a second copy.
        self.gen_opt.zero_grad(set_to_none=not self._parallel)

    def dis_update(self, z1: Tensor, z2: Tensor, z1_t: Tensor, z2_t: Tensor, update: bool = True) -> Losses:
        """One step of the discriminators on the predictions of `gen_update`; 0 for one that is not trained.

        Shapes and `update` as in `gen_update`.
        """
        losses = {"D1": z1.new_zeros(()), "D2": z1.new_zeros(())}
        if not self.adversary.trained:
            return losses
        for k in self.adversary.trained:
            D, optimizer = (self.D1, self.D2)[k - 1], self.dis_opts[k]
            with _trainable(D):
                loss = self.adversary.discriminator_loss(D, k, (z1, z2), (z1_t, z2_t), self.i_iter)
                loss = loss * self._batch_fraction(z1)
                (loss / self.args.iter_size).backward()
            if update:
                self.processes.all_reduce_gradients(D.parameters())
                optimizer.step()
                optimizer.zero_grad()
            losses[f"D{k}"] = loss
        return self._reduce_losses(losses)

    def train(self, mode: bool = True) -> "AD_Trainer":
        """As in nn.Module, but `--is-training False` freezes the BN statistics of the backbone."""
        super().train(mode)
        if not self.args.is_training:
            for module in self.G.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def segment(
        self, images: Tensor, network: nn.Module | None = None, head: str | None = None, kept: int = 0
    ) -> tuple[Tensor, ...]:
        """Logits of both classifiers at the images' size, in torch's default dtype: two of (N, C, H, W).

        `network`: another one than `G`. With one of `heads` also its embeddings (N, D, h, w) and its cells'
        primary logits (N, C, h, w), detached. Last, `kept` channels of the primary classifier's input.
        """
        network, projects = network or self._parallel.get("G", self.G), head in self.heads
        if projects:
            projection = self._parallel.get(head, self.heads[head])
            network = Projected(network, projection, self.heads[head].reads, kept)
        elif kept:
            network = Projected(network, None, "input", kept)
        # `contiguous` while they are small: softmax would otherwise copy each of its large inputs.
        aux, main, *more = (z.contiguous() for z in self.run(network, images))
        logits = tuple(upsample(z, images.shape[2:]) for z in (aux, main))
        return (*logits, more[0], main.detach(), *more[1:]) if projects else (*logits, *more)

    def run(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs on all GPUs, computed in `--precision`, in torch's default dtype."""
        network = InPrecision(network, self.args.precision)
        if len(self.device_ids) > 1:
            outputs = nn.parallel.data_parallel(network, images, self.device_ids)
        else:
            outputs = network(images)
        return tuple(z.to(torch.get_default_dtype()) for z in outputs)

    def _learn(
        self, outputs: tuple[Tensor, ...], terms: Terms, *details: object
    ) -> tuple[Losses, tuple[Tensor, ...]]:
        """Back-propagate the losses `terms(z1, z2, *details, ...)` of the `outputs` of `segment`.

        One term after the other goes back to the outputs, and the sum of their gradients once through the
        network: of all maps at the crop size, only one term's exist at a time. Returns the losses and the
        outputs, detached.
        """
        losses = {}
        z = tuple(x.detach().requires_grad_(x.requires_grad) for x in outputs)
        # DDP averages over the ranks, but the shares of the loss add up.
        scale = self.processes.world_size / self.args.iter_size
        for group in terms(*z[:2], *details, *z[2:]):
            total = sum(self.weights[name] * loss for name, loss in group.items())
            self.scaler.scale(scale * total).backward()
            losses |= {name: loss.detach() for name, loss in group.items()}
            del group, total  # free this term before the next is computed
        pairs = [(x, leaf.grad) for x, leaf in zip(outputs, z, strict=True) if x.requires_grad]
        if any(gradient is not None for _, gradient in pairs):
            if self._parallel:  # it waits for all parameters, also those of a classifier that no term uses
                pairs = [(x, torch.zeros_like(x) if gradient is None else gradient) for x, gradient in pairs]
            learned = [(x, gradient) for x, gradient in pairs if gradient is not None]
            torch.autograd.backward(*zip(*learned, strict=True))
        return losses, tuple(x.detach() for x in z)

    def _defer_all_reduce(self, last: bool):
        """While accumulating, skip DDP's all-reduce; reduce with the last micro-batch."""
        waits = self._parallel and not last
        return self._parallel["G"].no_sync() if waits else contextlib.nullcontext()

    def _batch_fraction(self, batch: Tensor) -> float:
        """This rank's share of the images of the global batch."""
        return len(batch) / self.args.batch_size if self.processes.is_distributed else 1.0

    def _reduce_losses(self, losses: Losses) -> Losses:
        """The sum of all ranks' shares, detached."""
        totals = self.processes.all_reduce_sum(torch.stack([loss.detach() for loss in losses.values()]))
        return dict(zip(losses, totals, strict=True))

    def _learns_from_target(self, i_iter: int) -> bool:
        weights = self.weights
        regularised = weights["me"] > 0 or weights["kl"] > 0
        return weights["adv1"] > 0 or weights["adv2"] > 0 or (regularised and i_iter >= self.args.reg_start)

    def needs_target(self, i_iter: int) -> bool:
        """Whether training depends on the target batch: on its losses, its statistics or its dropout."""
        return self._learns_from_target(i_iter) or self.args.is_training or self.args.droprate > 0

    def compute_class_weight(self, labels: Tensor) -> Tensor:
        """Weight of each class in this step's cross entropies, (C,)."""
        args = self.args
        weight = torch.ones_like(self.often_weight)
        if not (args.class_balance or args.often_balance):
            return weight
        counts = self.processes.all_reduce_sum(class_pixel_counts(labels, args.num_classes))
        if args.class_balance:
            images = round(len(labels) / self._batch_fraction(labels))
            weight = rare_class_weight(counts, images, args.max_value).to(weight.dtype)
        if args.often_balance:
            self.often_weight.copy_(update_often_weight(self.often_weight, counts, args.max_value))
            weight = weight * self.often_weight
        return weight

    def source_losses(self, z1: Tensor, z2: Tensor, labels: Tensor, *projected: Tensor) -> Iterator[Losses]:
        """The segmentation losses and, with `--lambda-pixel`, pixel."""
        yield from self.segmentation_losses(z1, z2, labels)
        if projected:
            embeddings, cells = projected
            rank = self.draws(ANCHORS, cells, self.images_of(cells))
            options = rank, self.args.ignore_label, self.processes
            yield {"pixel": contrast_cells(embeddings, cells.argmax(1), labels, *options)}

    def draws(self, use: int, cells: Tensor, images: range) -> Tensor:
        """Random numbers (N, h, w) for maps of the size of `cells`, by seed, iteration and image."""
        options = images, cells.shape[2:], cells.device
        return uniform_draws(self.args.random_seed, use, self.i_iter, *options)

    def images_of(self, batch: Tensor) -> range:
        """The places of a batch's images among all images of the update."""
        first = self._accumulated * self.args.batch_size + self.processes.shard(self.args.batch_size).start
        return range(first, first + len(batch))

    def segmentation_losses(self, z1: Tensor, z2: Tensor, labels: Tensor) -> Iterator[Losses]:
        """seg1 and seg2, which Stage II replaces."""
        args, weight = self.args, self.class_weight
        options = (labels, weight, args.ignore_label, args.only_hard_label, self.processes, args.focal)
        yield {"seg1": self.fused(segmentation_loss)(z1, *options)}
        yield {"seg2": self.fused(segmentation_loss)(z2, *options)}

    def target_losses(self, z1_t: Tensor, z2_t: Tensor, i_iter: int) -> Iterator[Losses]:
        """adv1, adv2 and, from `args.reg_start` on, me and kl; not those whose weight is 0."""
        weights, share = self.weights, self._batch_fraction(z1_t)  # they are means over the batch
        regularised = i_iter >= self.args.reg_start
        if weights["adv1"] > 0:
            yield {"adv1": share * self.adversary.network_loss(self.D1, 1, (z1_t, z2_t), i_iter)}
        if weights["adv2"] > 0:
            yield {"adv2": share * self.adversary.network_loss(self.D2, 2, (z1_t, z2_t), i_iter)}
        if weights["me"] > 0 and regularised:
            yield {"me": share * self.fused(confidence_weighted_entropy)(z1_t, z2_t)}
        if weights["kl"] > 0 and regularised:
            yield {"kl": share * self.fused(memory_regularization)(z1_t, z2_t)}

    def parameter_losses(self, images: Tensor) -> Iterator[Losses]:
        """weight, which depends on no image; each rank counts its share."""
        if self.args.lambda_weight:
            share = self._batch_fraction(images)
            yield {"weight": share * weight_discrepancy(self.G.layer5, self.G.layer6)}

    @torch.no_grad()
    def _validation_loss(self, z2_t: Tensor, labels_t: Tensor) -> Tensor:
        options = dict(ignore_index=self.args.ignore_label, across=self.processes)
        return segmentation_loss(z2_t, labels_t, self.class_weight, **options)


@contextlib.contextmanager
def _trainable(module: nn.Module):
    """Enable gradients of the parameters inside; outside, the generator's step computes none for them."""
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)
