"""The scripts' commands for the networks of the papers' tables (`experiments.tables`) by a recipe."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.recipes import ADVERSARIAL, ALL_PIXELS, FROM_THE_START, NO_TARGET, Recipe
from experiments.runner import Job
from experiments.tables import WEIGHTS, Cell, Network, Stage1, Stage2

RESULT_FILE = "metrics.json"


@dataclass(frozen=True)
class Benchmark:
    """--source, --target, the first part of the snapshots' names, and where the data lie below their root."""

    source: str
    target: str
    prefix: str
    source_folder: str
    target_folder: str


BENCHMARKS = {
    "gta5": Benchmark("gta5", "cityscapes", "GTA5", "GTA5", "Cityscapes/data"),
    "synthia": Benchmark("synthia", "cityscapes", "SYNTHIA", "synthia", "Cityscapes/data"),
    "robotcar": Benchmark("cityscapes", "robotcar", "Cityscapes", "Cityscapes/data", "Oxford_Robot_ICCV19"),
}


@dataclass(frozen=True)
class Trained:
    """A training and the snapshot it ends with."""

    job: Job
    snapshot: Path


class Planner:
    """The jobs of one seed by a recipe; asked twice for the same network, it gives the same job.

    Args:
        recipe: flags of the setting.
        out: folder of all settings.
        seed: of weights, order and augmentation, and of embedded data.
        gpu_ids: for every script; None: the recipe's.
    """

    def __init__(self, recipe: Recipe, out: Path, seed: int, gpu_ids: str | None = None):
        self.recipe, self.seed, self.gpu_ids = recipe, seed, gpu_ids
        self.home = out / recipe.setting / f"seed{seed}"

    def evaluate(self, cell: Cell) -> Job:
        """The evaluation that a cell's number stands in; it writes `RESULT_FILE`."""
        network = self.resolve(cell.network)
        trained = self.train(network)
        name, flags = self.network_name(network), ""
        if isinstance(network, Stage1):  # one evaluation gives every row of MRNet's table 1
            flags = f"--weights {','.join(WEIGHTS)}"
        if cell.uncertainty != "kl":
            name, flags = f"{name}-{cell.uncertainty}", f"--uncertainty {cell.uncertainty}"
        return self._predict(
            f"evaluate-{name}",
            "evaluate_cityscapes.py",
            self.home / "results" / name,
            network,
            trained,
            flags,
        )

    def pseudo_labels(self, teacher: Stage1, threshold: float) -> Job:
        """The pseudo labels of a resolved network."""
        name = self.network_name(teacher)
        if threshold != self.recipe.thresholds[teacher.benchmark]:
            name += _threshold_suffix(threshold)
        return self._predict(
            f"label-{name}",
            "generate_plabel_cityscapes.py",
            self.home / "pseudo" / name,
            teacher,
            self.train(teacher),
            f"--threshold {threshold:g}",
        )

    def train(self, network: Network) -> Trained:
        """The training of a resolved network."""
        return self._stage1(network) if isinstance(network, Stage1) else self._stage2(network)

    def _stage1(self, network: Stage1) -> Trained:
        benchmark, recipe = network.benchmark, self.recipe
        adversarial = ADVERSARIAL if network.adversarial else NO_TARGET
        flags = f"{recipe.stage1[benchmark]} {adversarial} --lambda-kl-target {network.memory:g}"
        if network.memory:
            flags += f" {recipe.memory_flags}"
        if recipe.start:
            start = self._start(benchmark)
            before, needs = start.snapshot, (start.job,)
        else:
            before, needs = "imagenet", ()
        name = self.network_name(network)
        return self._train(
            "train_ms.py", name, benchmark, flags, before, recipe.stop1, recipe.gpu_ids1, needs
        )

    def _start(self, benchmark: str) -> Trained:
        """What every Stage I starts from in place of ImageNet weights, trained on the source for a while."""
        flags, stop = self.recipe.start[benchmark], self.recipe.plan.start
        return self._train("train_ms.py", f"{benchmark}-start", benchmark, flags, "none", stop, None, ())

    def _stage2(self, network: Stage2) -> Trained:
        benchmark, recipe = network.benchmark, self.recipe
        start = self.train(network.start)
        labels = self.pseudo_labels(network.teacher, network.threshold)
        flags = f"{recipe.stage2[benchmark]} --drop {network.drop:g} --lambda-kl-target {network.memory:g}"
        if network.memory:
            flags += f" {FROM_THE_START}"
        flags += f" --threshold {network.threshold:g} --pseudo-dir {_quoted(labels.folder)}"
        if network.conventional:
            flags += " --conventional"
        elif network.divergence != "kl":
            flags += f" --divergence {network.divergence}"
        return self._train(
            "train_ft.py",
            self.network_name(network),
            benchmark,
            flags,
            start.snapshot,
            recipe.stop2,
            recipe.gpu_ids2,
            (start.job, labels),
        )

    def _train(
        self,
        script: str,
        name: str,
        benchmark: str,
        flags: str,
        before: Path | str,
        stop: int,
        gpu_ids: str | None,
        needs: tuple[Job, ...],
    ) -> Trained:
        pair, folder = BENCHMARKS[benchmark], self.home / "snapshots" / name
        labelled = pair.target_folder if script == "train_ft.py" else pair.source_folder
        root, drawing = self._data(benchmark)
        command = f"{script} --source {pair.source} --target {pair.target}"
        if root:
            command += f" --data-dir {_quoted(root / labelled)}"
            command += f" --data-dir-target {_quoted(root / pair.target_folder)}"
        command += f" --snapshot-dir {_quoted(folder)} --log-dir {_quoted(folder / 'tensorboard')}"
        command += f" --restore-from {_quoted(before)} {flags} --random-seed {self.seed}"
        gpu_ids = self.gpu_ids or gpu_ids
        command += f" --gpu-ids {gpu_ids}" if gpu_ids else ""
        job = Job(f"train-{name}", tuple(shlex.split(command)), self.home, folder, (*drawing, *needs))
        return Trained(job, folder / f"{pair.prefix}_{stop}.pth")

    def _predict(
        self, name: str, script: str, folder: Path, network: Network, trained: Trained, flags: str
    ) -> Job:
        benchmark = network.benchmark
        root, drawing = self._data(benchmark)
        command = f"{script} --restore-from {_quoted(trained.snapshot)} --save {_quoted(folder)}"
        if root:
            command += f" --data-dir {_quoted(root / BENCHMARKS[benchmark].target_folder)}"
        command += f" {self.recipe.prediction[benchmark]} {flags}"
        if self.gpu_ids:
            command += f" --gpu-ids {self.gpu_ids.partition(',')[0]}"  # predictions use one
        return Job(name, tuple(shlex.split(command)), self.home, folder, (*drawing, trained.job))

    def _data(self, benchmark: str) -> tuple[Path | None, tuple[Job, ...]]:
        """Root of the data and the job that draws them; without one they are in ./data, the default."""
        plan = self.recipe.plan
        if plan is None:
            return None, ()
        root = self.home / benchmark / "data"
        command = (
            f"-m synthetic {_quoted(root)} --benchmark {benchmark} --seed {self.seed}"
            f" --source-images {plan.train_images} --target-images {plan.train_images}"
            f" --val-images {plan.val_images}"
        )
        return root, (Job(f"draw-{benchmark}", tuple(shlex.split(command)), self.home, root),)

    def resolve(self, network: Network) -> Network:
        """The network with every None filled in from the recipe, so that equal networks are equal."""
        recipe = self.recipe
        if isinstance(network, Stage1):
            return replace(network, memory=recipe.memory if network.memory is None else float(network.memory))
        threshold = recipe.thresholds[network.benchmark] if network.threshold is None else network.threshold
        start = self.resolve(network.start)
        return replace(
            network,
            start=start,
            teacher=self.resolve(network.teacher) if network.teacher else start,
            threshold=float(threshold) or ALL_PIXELS,
            drop=recipe.drop if network.drop is None else float(network.drop),
        )

    def network_name(self, network: Network) -> str:
        """Of a resolved network's folders: what it is, and what differs from the recipe."""
        if isinstance(network, Stage1):
            return f"{network.benchmark}-{self._stage1_word(network)}"
        name = f"{network.benchmark}-{'conventional' if network.conventional else 'rectified'}"
        if network.teacher != network.start:
            name += f"-of-{self._stage1_word(network.teacher)}"
        if network.threshold != self.recipe.thresholds[network.benchmark]:
            name += _threshold_suffix(network.threshold)
        if network.drop != self.recipe.drop:
            name += f"-drop{network.drop:g}"
        if network.divergence != "kl":
            name += f"-{network.divergence}"
        return f"{name}-kl{network.memory:g}" if network.memory else name

    def _stage1_word(self, network: Stage1) -> str:
        if not network.memory:
            return "adversarial" if network.adversarial else "source-only"
        word = "mrnet" if network.adversarial else "memory"
        return word if network.memory == self.recipe.memory else f"{word}-kl{network.memory:g}"


def _threshold_suffix(threshold: float) -> str:
    return "-all" if threshold == ALL_PIXELS else f"-t{threshold:g}"


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
