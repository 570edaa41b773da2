"""Flags that cannot act beside the others: refused, or said in a line for each when a run starts."""

import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from dataset import NO_THRESHOLD
from model.deeplab_multi import ARCHS
from model.timm_backbone import make_plan
from utils.adversaries import ADVERSARIES

# Flags -> what they need: one of these flags, `name=value` with this value, or not `!name`.
Needs = tuple[tuple[str, str], ...]
REFUSED: Needs = (
    ("ema", "swa"),
    ("recent adatype adaboost_temperature", "adaboost"),
    ("swa_every swa_batch", "swa|adaboost"),
    ("swa_start", "swa|adaboost|cosine"),
    ("gan", "adversarial=adaptsegnet"),
    ("lambda_local epsilon", "adversarial=clan"),
    ("warm_up_start warm_up_D", "warm_up"),
    ("keep_best", "eval_every"),
    ("lr_weight_ent mine_chance ds_rate mine_port best_images", "portion"),
    ("mr_weight_src", "mr_weight_kld"),
    ("source_dir", "source_portion"),
)
IDLE: Needs = (
    ("reg_start", "lambda_kl_target|lambda_me_target"),
    ("patch_size patch_start", "lambda_patch"),
    ("max_value", "class_balance|often_balance"),
    ("log_dir", "tensorboard"),
    ("eval_set eval_list", "eval_every"),
    ("momentum nesterov single_updates", "optimizer=sgd"),
    ("nesterov", "momentum"),
    ("divergence", "!conventional"),
    ("threshold", "!pseudo_dir"),
    ("input_size_source mr_weight_src", "source_portion"),
    ("teacher_alpha pseudo_threshold pseudo_weight pseudo_margins", "self_training|lambda_mask"),
    ("jitter jitter_chance blur_chance", "self_training|lambda_mask"),
    ("jitter", "jitter_chance"),
    ("lambda_mix", "self_training"),
    ("mask_ratio mask_block", "lambda_mask"),
    ("fd_classes imnet_from", "lambda_fd"),
    ("rcs_pixels rcs_crop", "rcs"),
    ("gpu_ids batchsize", "!cpu"),
    ("input_size scales weights uncertainty precision", "!predictions"),
    ("mc_passes mc_droprate random_seed", "uncertainty=mc-dropout"),
    ("report_images", "report"),
    ("uncertainty_max", "!label_ids"),
    ("images", "!names"),
    ("seeds out jobs gpu_ids synthetic quick short dry_run", "!list"),
    ("jobs", "!dry_run"),
)
TARGET_LOSSES = ("lambda_adv_target1", "lambda_adv_target2", "lambda_me_target", "lambda_kl_target")
log = logging.getLogger(__name__)


def refuse_idle_flags(parser: ArgumentParser, args: Namespace) -> None:
    """Exit with one line if a flag was changed that has no effect without another."""
    for name, why in _lacking(args, REFUSED):
        if getattr(args, name, None) != parser.get_default(name):
            parser.error(f"{_spelled(name)} has no effect {why}; give that too")


def log_idle_flags(args: Namespace) -> None:
    """Log `idle_flags`."""
    for line in idle_flags(args):
        log.warning("%s", line)


def idle_flags(args: Namespace) -> list[str]:
    """A line for each given flag that has no effect; switches that are off are not expected to have one."""
    whys = {name: f"has no effect {why}" for name, why in _lacking(args, IDLE)}
    if hasattr(args, "num_steps_stop"):
        whys |= _idle_in_training(args)
    if (getattr(args, "threshold", None) or 0) > NO_THRESHOLD:
        whys.setdefault("threshold", "is the published tag for no threshold: every pixel has a label")
    given = {name: flag for name, flag in args.given.items() if getattr(args, name) is not False}
    return [f"{flag} {whys[name]}." for name, flag in given.items() if name in whys]


def _lacking(args: Namespace, table: Needs) -> Iterator[tuple[str, str]]:
    """Each flag of the table that lacks what it needs, and what that is."""
    for names, needs in table:
        conditions = [need.strip("!").partition("=") for need in needs.split("|")]
        if not any(name in args for name, *_ in conditions):  # of another script
            continue
        met = [
            getattr(args, name) == value if value else getattr(args, name) for name, _, value in conditions
        ]
        if any(met) == needs.startswith("!"):
            flags = " or ".join(f"{_spelled(name)} {value}".strip() for name, _, value in conditions)
            word = "with" if needs.startswith("!") else "without"
            yield from ((name, f"{word} {flags}") for name in names.split())


def _idle_in_training(args: Namespace) -> dict[str, str]:
    """What a training's flags do not do beside the values of others, and why."""
    steps, found = args.num_steps_stop, {}
    for name in ("save_pred_every", "save_state_every", "log_every", "eval_every"):
        if getattr(args, name) > steps:
            found[name] = f"has no effect: the run ends after {steps} iterations"
    late = dict(lambda_kl_target="reg_start", lambda_me_target="reg_start", lambda_patch="patch_start")
    for name, first in late.items():
        if getattr(args, name) and getattr(args, first) >= steps:
            start = f"{_spelled(first)} {getattr(args, first)}"
            found[name] = f"has no effect: {start} is not reached in {steps} iterations; give a lower one"
    if args.warm_up >= steps:
        found["warm_up"] = f"does not end in {steps} iterations, before --learning-rate is reached"
    if not ADVERSARIES[args.adversarial](args).trained:
        for name in ("learning_rate_D", "adversarial", "warm_up_D"):
            found[name] = "has no effect: the discriminators are not trained"
        for name in ("lambda_adv_target1", "lambda_adv_target2"):
            if getattr(args, name):
                found[name] = "works against untrained discriminators: both weights must be above 0"
    if args.restore_from in ("imagenet", "none"):
        found["not_restore_last"] = f"has no effect: --restore-from {args.restore_from} has no classifiers"
    if args.arch not in ARCHS and not make_plan(args.arch).batch_norm:
        found["train_bn"] = f"has no effect: {args.arch} has no batch normalisation"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        found["sync_bn"] = "has no effect in one process; start one per GPU with torchrun"
    if args.only_hard_label and not getattr(args, "conventional", True):
        found["only_hard_label"] = "has no effect: only --conventional chooses the hard pixels"
    if getattr(args, "pseudo_weight", None) in ("none", "uncertainty"):
        found["pseudo_threshold"] = (
            f"has no effect: --pseudo-weight {args.pseudo_weight} counts no sure pixels"
        )
    if not any(getattr(args, name, 0) for name in (*TARGET_LOSSES, "self_training", "lambda_mask")):
        found["adaboost"] = "has no effect: nothing is learned from the target stream that it samples"
    return found


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"
