"""Flags that cannot act beside the others: one table, from which a script says so in a line for each.

What contradicts itself is refused where the flags are read (utils/options.py and the scripts). Here is what a
run could do without: it starts, and says which flag has no effect and why.
"""

import logging
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dataset import NO_THRESHOLD
from model.deeplab_multi import ARCHS
from model.timm_backbone import make_plan
from utils.adversaries import ADVERSARIES

TARGET_LOSSES = (
    *("lambda_adv_target1", "lambda_adv_target2", "lambda_me_target", "lambda_kl_target"),
    *("self_training", "lambda_mask"),
)
MC_DROPOUT = "mc-dropout"
log = logging.getLogger(__name__)


class Rule(NamedTuple):
    """When flags have no effect.

    Args:
        flags: their names in the namespace.
        idle: all flags and the value of this one -> whether it has no effect.
        why: the reason, completed with other flags' values.
        what: what the flag does not do.
    """

    flags: str
    idle: Callable[[Namespace, Any], bool]
    why: str
    what: str = "has no effect"


def _adversarial(args: Namespace) -> bool:
    """Whether a discriminator is trained."""
    return bool(ADVERSARIES[args.adversarial](args).trained)


def _single_process() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


DEVICE = (
    Rule("gpu_ids", lambda args, _: args.cpu, "--cpu computes on no GPU"),
    Rule("gpu_ids", lambda *_: not _single_process(), "torchrun gives each process a GPU of its own"),
    Rule("precision", lambda args, value: args.cpu and value == "tf32", "a CPU computes in full precision"),
)
ONE_GPU = Rule(
    "gpu_ids",
    lambda args, ids: len(ids) > 1 and not args.cpu,
    "a process predicts on one; start several with torchrun",
    "has no effect beyond its first GPU",
)
TAG = Rule(
    "threshold",
    lambda args, threshold: threshold > NO_THRESHOLD and not getattr(args, "pseudo_dir", None),
    "a number above it is the published tag for labels of all pixels",
    "is taken for 1",
)
TRAINING = (
    *DEVICE,
    Rule(
        "lambda_kl_target lambda_me_target",
        lambda args, weight: weight > 0 and args.reg_start >= args.num_steps_stop,
        "--reg-start {reg_start} is not reached in {num_steps_stop} iterations; give a lower --reg-start",
    ),
    Rule(
        "reg_start",
        lambda args, _: not (args.lambda_kl_target or args.lambda_me_target),
        "nothing starts there, --lambda-kl-target and --lambda-me-target are 0",
    ),
    Rule(
        "lambda_patch",
        lambda args, weight: weight > 0 and args.patch_start >= args.num_steps_stop,
        "--patch-start {patch_start} is not reached in {num_steps_stop} iterations; give a lower one",
    ),
    Rule("patch_size patch_start", lambda args, _: not args.lambda_patch, "--lambda-patch is 0"),
    Rule(
        "max_value",
        lambda args, _: not (args.class_balance or args.often_balance),
        "no class is raised to it without --class-balance or --often-balance",
    ),
    Rule("class_balance often_balance", lambda args, _: args.max_value == 1, "--max-value 1 raises no class"),
    Rule(
        "learning_rate_D adversarial warm_up_D",
        lambda args, _: not _adversarial(args),
        "the discriminators are not trained",
    ),
    Rule(
        "lambda_adv_target1 lambda_adv_target2",
        lambda args, weight: weight > 0 and not _adversarial(args),
        "both adversarial weights must be above 0 to train them",
        "works against discriminators that stay untrained",
    ),
    Rule(
        "warm_up",
        lambda args, length: length >= args.num_steps_stop,
        "the run ends after {num_steps_stop} iterations, before --learning-rate is reached",
        "does not end",
    ),
    Rule(
        "save_pred_every save_state_every log_every eval_every pictures_every",
        lambda args, every: every > args.num_steps_stop,
        "the run ends after {num_steps_stop} iterations",
    ),
    Rule("log_dir pictures_every", lambda args, _: not args.tensorboard, "--tensorboard False writes none"),
    Rule("pictures_every", lambda args, _: not args.save_num_images, "--save-num-images 0 draws none"),
    Rule("eval_set eval_list", lambda args, _: not args.eval_every, "--eval-every is what validates"),
    Rule(
        "not_restore_last",
        lambda args, _: args.restore_from in ("imagenet", "none"),
        "--restore-from {restore_from} has no classifiers",
    ),
    Rule(
        "train_bn",
        lambda args, _: args.arch not in ARCHS and not make_plan(args.arch).batch_norm,
        "{arch} has no batch normalisation",
    ),
    Rule("sync_bn", lambda *_: _single_process(), "there is one process; start one per GPU with torchrun"),
    Rule("divergence", lambda args, _: args.conventional, "--conventional does not rectify the loss"),
    Rule(
        "only_hard_label",
        lambda args, percent: percent > 0 and not getattr(args, "conventional", True),
        "the rectified loss learns from every pixel; --conventional can choose the hard ones",
    ),
    Rule(
        "input_size_source mr_weight_src",
        lambda args, _: not args.source_portion,
        "no source image is mixed in",
    ),
    Rule(
        "teacher_alpha pseudo_threshold pseudo_weight pseudo_margins jitter jitter_chance blur_chance",
        lambda args, _: not (args.self_training or args.lambda_mask),
        "nothing learns from a teacher without --self-training or --lambda-mask",
    ),
    Rule("lambda_mix", lambda args, _: not args.self_training, "no images are mixed without --self-training"),
    Rule("mask_ratio mask_block", lambda args, _: not args.lambda_mask, "--lambda-mask 0 hides no blocks"),
    Rule("fd_classes imnet_from", lambda args, _: not args.lambda_fd, "--lambda-fd 0 compares no features"),
    Rule("rcs_pixels rcs_crop", lambda args, _: not args.rcs, "--rcs 0 draws images as ever"),
    Rule("jitter", lambda args, _: not args.jitter_chance, "--jitter-chance 0"),
    Rule(
        "pseudo_threshold",
        lambda args, _: args.pseudo_weight in ("none", "uncertainty"),
        "--pseudo-weight {pseudo_weight} counts no sure pixels",
    ),
    Rule("nesterov", lambda args, _: not args.momentum, "--momentum 0"),
    Rule("momentum nesterov single_updates", lambda args, _: args.optimizer != "sgd", "it belongs to SGD"),
    Rule("threshold", lambda args, _: args.pseudo_dir, "the labels are those in --pseudo-dir"),
    TAG,
    Rule(
        "adaboost",
        lambda args, _: not any(getattr(args, name, 0) for name in TARGET_LOSSES),
        "nothing is learned from the target stream that it samples, the weights of its losses are 0",
    ),
)
PREDICTION = (
    *DEVICE,
    ONE_GPU,
    TAG,
    Rule("batchsize", lambda args, _: args.cpu, "a CPU takes one image per pass"),
)
EVALUATION = (
    *PREDICTION,
    Rule(
        "input_size scales weights uncertainty precision mc_passes mc_droprate random_seed",
        lambda args, _: args.predictions,
        "--predictions scores files without a network",
    ),
    Rule(
        "mc_passes mc_droprate random_seed",
        lambda args, _: args.uncertainty != MC_DROPOUT and not args.predictions,
        "it belongs to --uncertainty mc-dropout",
    ),
    Rule("report_images", lambda args, _: not args.report, "no page is written without --report"),
)
SEGMENTING = (
    *DEVICE,
    ONE_GPU,
    Rule("uncertainty_max", lambda args, _: args.label_ids, "--label-ids writes no maps"),
)
REPORTING = (
    Rule("titles", lambda args, _: len(args.results) == 1, "a single result is named by its folder"),
    Rule("images", lambda args, _: args.names, "--names chooses the images"),
)
TABULATING = (
    Rule(
        "seeds out jobs gpu_ids synthetic quick short dry_run", lambda args, _: args.list, "--list only lists"
    ),
    Rule("jobs", lambda args, _: args.dry_run, "--dry-run runs nothing"),
)


def idle_flags(args: Namespace, rules: Sequence[Rule]) -> list[str]:
    """A line for each given flag that has no effect; switches that are off are not expected to have one."""
    given = getattr(args, "given", {})
    return [
        f"{given[name]} {rule.what}: {rule.why.format(**vars(args))}."
        for rule in rules
        for name in rule.flags.split()
        if name in given and getattr(args, name) is not False and rule.idle(args, getattr(args, name))
    ]


def log_idle_flags(args: Namespace, rules: Sequence[Rule]) -> None:
    """Log `idle_flags`."""
    for line in idle_flags(args, rules):
        log.warning("%s", line)
