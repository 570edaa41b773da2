"""The jobs of self-training in rounds (CBST, arXiv 1810.07911; CRST, arXiv 1908.09822)."""

import math
from argparse import Namespace
from pathlib import Path
from shlex import quote

from dataset import Adaptation, build_dataset
from engine.class_balanced import BEST_IMAGES
from experiments.runner import Job
from utils.options import SHAPING_OPTIONS

# Published: the statistics of batch normalisation stay the source's, and the rates are constant.
TRAIN = "--conventional --is-training False --power 0 --learning-rate 5e-5 --nesterov False --droprate 0"
TRAIN += " --lambda-adv-target1 0 --lambda-adv-target2 0 --label-scales 0.5,1.5"
SIZES = "--input-size 2048,1024 --input-size-source 1914,1052 --crop-size 1024,512"  # with Cityscapes
PREDICT = {
    "generate": "generate_plabel_cityscapes.py --scales 0.9",
    "evaluate": "evaluate_cityscapes.py --scales 0.9,1,1.2",
}
SCRIPTS = quote(f"{Path(__file__).resolve().parent.parent}/")
PREDICTED_SIZE = "--input-size 2048,1024"


class Rounds:
    """The commands of every round, from the flags of self_train.py.

    Args:
        args: these flags.
        pair: the domains.
        options: the `opts.yaml` of the snapshot that the first round starts from.
    """

    def __init__(self, args: Namespace, pair: Adaptation, options: dict):
        self.args, self.pair = args, pair
        source, target = args.source or pair.source.name, args.target or pair.target.name
        self.source_images = len(build_dataset(source, args.source_dir))
        self.target_images = len(build_dataset(target, args.data_dir, list_file=args.data_list))
        self.common = _flags(source=source, target=target, data_dir=args.data_dir)
        self.network = _flags(**{name: options[name] for name in SHAPING_OPTIONS})
        self.published_sizes = pair.target.name == "cityscapes"

    def evaluations(self) -> dict[str, Job]:
        """The evaluation of the start and of each round, by title; the jobs they need come with them."""
        args, needs = self.args, ()
        network, names = Path(args.restore_from), args.data_list
        jobs = {"start": self._predict("evaluate", "start", network, args.out / "start", "metrics.json")}
        for number in range(args.rounds):
            title, folder = f"round {number + 1}", args.out / f"round{number + 1}"
            portion = min(args.portion + number * args.portion_step, args.portion_max)
            made_with = _flags(portion=f"{portion:g}", lr_weight_ent=args.lr_weight_ent)
            best = 0 if number else args.best_images
            flags = made_with + _flags(data_list=names, best_images=best)
            labels = self._predict(
                *("generate", f"{title} labels", network, folder / "labels", "run.yaml", flags), *needs
            )
            names = folder / "labels" / BEST_IMAGES if best else names
            training = self._train(
                number, title, network, folder, made_with + _flags(data_list=names), labels
            )
            network, needs = training.result, (training,)
            place = folder / "evaluation", "metrics.json"
            jobs[title] = self._predict("evaluate", title, network, *place, "", training)
        return jobs

    def _train(self, number: int, title: str, network: Path, folder: Path, flags: str, labels: Job) -> Job:
        args = self.args
        portion = min(args.source_portion + number * args.source_portion_step, args.source_portion_max)
        portion = float(f"{portion:g}")  # as train_ft.py reads it, to count the same images
        target_images = min(self.target_images, args.best_images or self.target_images)
        images = int(self.source_images * portion) + target_images
        steps = args.epochs * math.ceil(images / args.batch_size)
        flags += _flags(
            restore_from=network,
            pseudo_dir=folder / "labels",
            source_portion=portion,
            source_dir=args.source_dir,
            data_dir_target=args.data_dir,
            mine_chance=args.mine_chance,
            mr_weight_kld=args.mr_weight_kld,
            batch_size=args.batch_size,
            num_steps=steps,
            save_pred_every=steps,
            random_seed=str(args.random_seed + number),
            gpu_ids=",".join(map(str, args.gpu_ids)),
            snapshot_dir=folder,
            log_dir=folder / "tensorboard",
        )
        flags = f"{SIZES if self.published_sizes else ''}{self.common}{self.network}{flags} {args.train}"
        command = f"{SCRIPTS}train_ft.py --resume {TRAIN} {flags}"
        result = folder / f"{self.pair.source.prefix}_{steps}.pth"
        return self._job(f"{title} training", command, result, labels)

    def _predict(
        self, kind: str, title: str, network: Path, folder: Path, result: str, flags: str = "", *needs: Job
    ) -> Job:
        flags += self.common + _flags(restore_from=network, save=folder, gpu_ids=self.args.gpu_ids[0])
        size = PREDICTED_SIZE if self.published_sizes else ""
        command = f"{SCRIPTS}{PREDICT[kind]} {size}{flags} {getattr(self.args, kind)}"
        return self._job(title, command, folder / result, *needs)

    def _job(self, title: str, command: str, result: Path, *needs: Job) -> Job:
        log = self.args.out / "logs" / f"{title.replace(' ', '-')}.txt"
        return Job(title, command.strip(), result, log, needs)


def _flags(**values: object) -> str:
    """The flags as text, each after a space; those that are None or 0 are left out."""
    return "".join(
        f" --{name.replace('_', '-')} {quote(str(value))}"
        for name, value in values.items()
        if value is not None and (value is False or value != 0)
    )
