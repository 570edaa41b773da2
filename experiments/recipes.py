"""How the networks of the tables are trained: with the published flags, or small on synthetic data."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from dataset import adapt, find_domain
from experiments.runner import Job
from experiments.tables import COST, WEIGHTS, Averaged, Cell, Network, SelfTrained, Stage1, arch_suffix
from utils.self_training import PSEUDO_WEIGHTS

BENCHMARKS = {  # source and target
    "gta5": ("gta5", "cityscapes"),
    "synthia": ("synthia", "cityscapes"),
    "robotcar": ("cityscapes", "robotcar"),
}
NO_TARGET = "--lambda-adv-target1 0 --lambda-adv-target2 0"
ADVERSARIAL = "--lambda-adv-target1 0.0002 --lambda-adv-target2 0.001"
SINGLE = "--lambda-adv-target1 0 --lambda-adv-target2"
CLAN = f"--adversarial clan {SINGLE} 0.001 --lambda-seg 1 --focal 2"
ADVERSARIES = {  # published weights; everything else is as for MRNet
    "": ADVERSARIAL,
    "adaptsegnet-single": f"--adversarial adaptsegnet {SINGLE} 0.001",
    "adaptsegnet-multi": f"--adversarial adaptsegnet {ADVERSARIAL}",
    "adaptsegnet-ls": f"--adversarial adaptsegnet --gan LS {SINGLE} 0.01",
    "clan": f"{CLAN} --lambda-weight 0.01",
    "clan-no-weight": CLAN,
    "clan-no-map": f"{CLAN} --lambda-weight 0.01 --epsilon 1 --lambda-local 0",
}
# Beside the flags of DAFormer's training.
ONLINE = {
    "dacs": "--teacher-alpha 0.99 --rcs 0 --lambda-fd 0 --pseudo-margins 0,0",
    "daformer": "",
    "mic": "--lambda-mask 1",
    **{f"daformer-{kind}": f"--pseudo-weight {kind}" for kind in PSEUDO_WEIGHTS[1:]},
}
FROM_THE_START = "--reg-start 0"  # memory regularization


@dataclass(frozen=True)
class Sizes:
    """width,height of source images, target images and Stage I's crops."""

    source: str
    target: str
    crop: str

    @property
    def stage1(self) -> str:
        return f"--input-size {self.source} --input-size-target {self.target} --crop-size {self.crop}"

    @property
    def stage2(self) -> str:
        """Whole target images, which the labelled stream scales, crops and pads."""
        return f"--input-size {self.target} --input-size-target {self.target} --crop-size {self.target}"


@dataclass(frozen=True)
class Plan:
    """Numbers of synthetic images per domain, and iterations of each training on them."""

    train_images: int
    val_images: int
    start: int
    stage1: int
    stage2: int
    rate1: str  # learning rate of Stage I
    log_every: int


# A small network on synthetic data, as in demo.py.
SIZES = Sizes(source="256,144", target="256,128", crop="192,96")
VIEWS = "--patch-size 88,88 --patch-start 0"  # as large in the target as published
ROBOTCAR_SIZES = Sizes(source="256,128", target="192,144", crop="192,96")
COMMON = "--arch mini --norm-style gn --use-se --lambda-seg 0.5"
BALANCED = "--class-balance --often-balance --max-value 3"
START = f"{NO_TARGET} --batch-size 4 --learning-rate 1e-2 --warm-up 50"
MEMORY = 1.0  # lambda_kl
STAGE1 = f"{ADVERSARIAL} --lambda-kl-target {MEMORY:g} {FROM_THE_START}"
RATE1 = "--batch-size 2 --learning-rate"  # a plan's
# Its pseudo labels are much worse than a ResNet-101's: only confident pixels, and a low learning rate.
THRESHOLD = 0.9
STAGE2 = f"{NO_TARGET} --batch-size 2 --learning-rate 2e-5 --train_bn"
SELF_TRAINING_RATE = "1e-4"
DEMO = Plan(train_images=160, val_images=60, start=450, stage1=100, stage2=100, rate1="2e-3", log_every=10)
FULL = Plan(train_images=240, val_images=60, start=650, stage1=280, stage2=200, rate1="1e-3", log_every=10)
QUICK = Plan(train_images=16, val_images=4, start=24, stage1=6, stage2=6, rate1="1e-3", log_every=2)
PLANS = {"synthetic": FULL, "synthetic-short": DEMO, "synthetic-quick": QUICK}

# The published commands without the flags that the tables vary.
PUBLISHED = "--warm-up 5000 --lambda-seg 0.5 --lambda-me-target 0 --norm-style gn --class-balance"
PUBLISHED += " --only-hard-label 80 --max-value 7 --often-balance --use-se"
PUBLISHED_STAGE1 = f"{PUBLISHED} --drop 0.1 --batch-size 2 --learning-rate 2e-4 --crop-size 1024,512"
PUBLISHED_STAGE1 += " --gpu-ids 0,1"
PUBLISHED_STAGE2 = f"{PUBLISHED} {NO_TARGET} --batch-size 9 --learning-rate 1e-4 --crop-size 512,256"
PUBLISHED_STAGE2 += " --train_bn --autoaug False --gpu-ids 0,1,2"
PUBLISHED_ONLINE = "--config recipes/daformer.yaml --gpu-ids 0"
# In images this small blocks and classes are smaller, and in so short a run the teacher follows faster.
SYNTHETIC_ONLINE = "--self-training --teacher-alpha 0.99 --mask-block 16 --rcs 0.01 --rcs-pixels 60 "
SYNTHETIC_ONLINE += "--lambda-fd 0.005"


class Published:
    """The published flags, for the real data sets."""

    name = "published"  # folder of its results
    description = "published flags, 25000 iterations of Stage I, 50000 of Stage II"
    memory, drop = 0.1, 0.2  # lambda_kl of Stage I, drop rate of Stage II
    iterations = {"stage1": 25000, "stage2": 50000, "online": 40000}  # they name the snapshots
    averaged_iterations = {"stage1": 40000, "stage2": 50000}
    averages = {  # flags of a training that collects an average
        "stage1": "--swa --swa_start 0 --gpu-ids 0 --num-steps-stop 40000",
        "stage2": "--swa --swa_start 25000 --batch-size 2 --crop-size 960,480 --learning-rate 4e-4"
        " --gpu-ids 0",
    }
    adamw_rates = {"stage1": "6e-5", "stage2": "3e-5"}  # with a backbone of timm
    cost = "--rounds 10"  # flags of the measurement of a step
    arch, views = "resnet101", ""  # the network of the other flags; flags of the patch contrast
    plan = None  # synthetic data to draw, and a start on it in place of ImageNet's weights

    def threshold(self, benchmark: str) -> float:
        """Of the pseudo labels."""
        return adapt(*map(find_domain, BENCHMARKS[benchmark])).threshold

    def flags(self, kind: str, benchmark: str) -> str:
        """Of a training (start, stage1, stage2, online), a prediction or rounds of self-training."""
        if kind == "stage1":
            return f"{PUBLISHED_STAGE1} --num-steps-stop {self.iterations[kind]}"
        if kind == "stage2":
            size = "" if benchmark == "robotcar" else " --input-size 1280,640"
            return f"{PUBLISHED_STAGE2} --num-steps-stop {self.iterations[kind]}{size}"
        return {"online": PUBLISHED_ONLINE, "self_training": "--best-images 505"}.get(kind, "")


class Synthetic:
    """The flags and iterations of demo.py, for synthetic data; `name` is one of `PLANS`."""

    memory, drop = MEMORY, 0.1
    adamw_rates = {"start": "5e-4", "stage1": "1e-4", "stage2": "1e-5"}
    cost = f"--precision fp32 --crop {SIZES.crop} --rounds 5"
    arch, views = "mini", VIEWS

    def __init__(self, name: str = "synthetic"):
        self.name, self.plan = name, (plan := PLANS[name])
        self.description = (
            f"synthetic data ({plan.train_images} images per domain, {plan.val_images} test images), small "
            f"network, {plan.start} + {plan.stage1} iterations of Stage I, {plan.stage2} of Stage II"
        )
        self.iterations = {"start": plan.start, "stage1": plan.stage1, "stage2": plan.stage2}
        self.iterations["online"] = plan.stage1 + plan.stage2  # instead of both
        self.averaged_iterations = self.iterations
        # As many networks as published: 9 of all of Stage I, 6 of the second half of Stage II.
        every1, every2 = max(1, plan.stage1 // 8), max(1, plan.stage2 // 10)
        self.averages = {
            "stage1": f"--swa --swa_every {every1}",
            "stage2": f"--swa --swa_start {plan.stage2 // 2} --swa_every {every2}",
        }

    def threshold(self, benchmark: str) -> float:
        """As in `Published`."""
        return THRESHOLD

    def flags(self, kind: str, benchmark: str) -> str:
        """As in `Published`."""
        plan, sizes = self.plan, ROBOTCAR_SIZES if benchmark == "robotcar" else SIZES
        if kind == "prediction":
            return f"--input-size {sizes.target}"
        if kind == "self_training":  # more source images than the published 3 % of them
            predict = _quote(f"--input-size {sizes.target} --scales 1,1.25")
            train = f"{sizes.stage2} --input-size-source {sizes.source} --lambda-seg 0.5 --log-every "
            train += f"{plan.log_every} --label-scales 0.8,1.2 --learning-rate {SELF_TRAINING_RATE}"
            portions = "--source-portion 0.1 --source-portion-step 0.01 --source-portion-max 0.2 --epochs 1"
            return f"{portions} --generate {predict} --evaluate {predict} --train {_quote(train)}"
        steps = f"--num-steps {self.iterations[kind]} --save-pred-every {self.iterations[kind]}"
        common = f"{COMMON} --log-every {plan.log_every}"
        if kind == "stage2":
            return f"{common} {sizes.stage2} {STAGE2} {steps}"
        rate = START if kind == "start" else f"{RATE1} {plan.rate1} {FROM_THE_START}"
        more = f"{SYNTHETIC_ONLINE} " if kind == "online" else ""
        return f"{common} {sizes.stage1} {BALANCED} {rate} {more}{steps}"


Recipe = Published | Synthetic


class Planner:
    """The jobs of one seed; equal networks have equal jobs.

    Args:
        recipe: flags of the setting.
        out: folder of all settings.
        seed: of weights, order and augmentation, and of synthetic data.
        gpu_ids: for every script; None: the recipe's.
    """

    def __init__(self, recipe: Recipe, out: Path, seed: int, gpu_ids: str | None = None):
        self.recipe, self.seed, self.gpu_ids = recipe, seed, gpu_ids
        self.home = out / recipe.name / f"seed{seed}"

    def evaluate(self, cell: Cell) -> Job:
        """The evaluation whose metrics.json holds a cell's number."""
        network = self.resolve(cell.network)
        if isinstance(network, SelfTrained):
            return self._self_train(network)
        if cell.measure[0] == COST:
            arch = network.arch or self.recipe.arch
            folder, result = f"cost/{arch.replace('/', '-')}", "step.json"
            save = self.home / folder / result
            command = f"benchmarks/step.py --arch {arch} {self.recipe.cost} --json {_quote(save)}"
            return self._job(folder, result, command)
        flags = f"--uncertainty {cell.uncertainty}"
        if isinstance(network, Stage1):  # one evaluation serves every row of MRNet's table 1
            flags += f" --weights {','.join(WEIGHTS)}"
        folder = f"results/{network.name}-{cell.uncertainty}"
        return self._predict("evaluate_cityscapes.py", network, folder, "metrics.json", flags)

    def train(self, network: Network) -> Job:
        """The training of a resolved network; its result is the last snapshot, or the last average."""
        recipe, benchmark, name = self.recipe, network.benchmark, network.name
        average, network = (network, network.network) if isinstance(network, Averaged) else (None, network)
        terms = f"--lambda-kl-target {network.memory:g}"
        terms += f" --lambda-pixel {network.pixel:g}" if network.pixel else ""
        if isinstance(network, Stage1):
            terms += f" --lambda-patch {network.patch:g} {recipe.views}" if network.patch else ""
            losses = ADVERSARIES[network.adversary] if network.adversarial else NO_TARGET
            kind, start = "online" if network.online else "stage1", "imagenet"
            flags = f"{recipe.flags(kind, benchmark)} {losses} {terms}"
            if recipe.plan:
                first = f"{benchmark}-start{arch_suffix(network)}"
                start = self._train(
                    "start", benchmark, first, "none", recipe.flags("start", benchmark), arch=network.arch
                )
            if network.online:
                flags += f" {ONLINE[network.online]}"
                flags += f" --imnet-from {_quote(start.result)}" if recipe.plan else ""
            return self._train(kind, benchmark, name, start, flags, average=average, arch=network.arch)
        chosen = f"--threshold {network.threshold:g}"
        if network.portion:
            chosen = f"--portion {network.portion:g}"
        folder = f"pseudo/{network.teacher.name}-{network.labels}"
        generate = "generate_plabel_cityscapes.py"
        labels = self._predict(generate, network.teacher, folder, "run.yaml", chosen)
        flags = f"{recipe.flags('stage2', benchmark)} --drop {network.drop:g} {terms}"
        flags += f" {chosen} --pseudo-dir {_quote(labels.result.parent)}"
        flags += " --conventional" if network.conventional else f" --divergence {network.divergence}"
        flags += f" {FROM_THE_START}" if network.memory else ""
        averaged = isinstance(network.teacher, Averaged)
        start = self.train(
            network.teacher if averaged else self.resolve(Stage1(benchmark, arch=network.arch))
        )
        return self._train(
            "stage2", benchmark, name, start, flags, labels, average=average, arch=network.arch
        )

    def _self_train(self, network: SelfTrained) -> Job:
        """The evaluation after the last round; the script skips the rounds before, which are finished."""
        benchmark, folder = network.benchmark, f"self-training/{network.name}"
        start = self.train(network.start)
        earlier = (self._self_train(replace(network, rounds=network.rounds - 1)),) if network.rounds else ()
        source, target = map(find_domain, BENCHMARKS[benchmark])
        root, drawing = self._data(benchmark)
        command = (
            f"self_train.py --restore-from {_quote(start.result)} --out {_quote(self.home / folder)}"
            f" --data-dir {_quote(root / target.root)} --source-dir {_quote(root / source.root)}"
            f" --rounds {network.rounds} --mr-weight-kld {network.mr_weight_kld:g}"
            f" --lr-weight-ent {network.lr_weight_ent:g} {self.recipe.flags('self_training', benchmark)}"
            f" --random-seed {self.seed}"
        )
        command += f" --gpu-ids {self.gpu_ids}" if self.gpu_ids else ""
        place = f"round{network.rounds}/evaluation" if network.rounds else "start"
        return self._job(f"{folder}/{place}", "metrics.json", command, *drawing, start, *earlier)

    def _train(
        self,
        kind: str,
        benchmark: str,
        name: str,
        start: Job | str,
        flags: str,
        *needs: Job,
        average: Averaged | None = None,
        arch: str | None = None,
    ) -> Job:
        """A training that starts from another's snapshot or from named weights."""
        folder = f"snapshots/{name}"
        if arch:
            flags += f" --arch {arch} --optimizer adamw --learning-rate {self.recipe.adamw_rates[kind]}"
        if average:
            flags += f" {self.recipe.averages[kind]}{average.flags}"
        if isinstance(start, Job):
            start, needs = start.result, (start, *needs)
        source, target = map(find_domain, BENCHMARKS[benchmark])
        root, drawing = self._data(benchmark)
        script, labelled = ("train_ft.py", target) if kind == "stage2" else ("train_ms.py", source)
        command = (
            f"{script} --source {source.name} --target {target.name} --restore-from {_quote(start)}"
            f" --data-dir {_quote(root / labelled.root)} --data-dir-target {_quote(root / target.root)}"
            f" --snapshot-dir {_quote(self.home / folder)}"
            f" --log-dir {_quote(self.home / folder / 'tensorboard')}"
            f" {flags} --random-seed {self.seed} --resume"
        )
        command += f" --gpu-ids {self.gpu_ids}" if self.gpu_ids else ""
        iterations, suffix = self.recipe.iterations[kind], ""
        if average:
            iterations, suffix = self.recipe.averaged_iterations[kind], "_average"
        snapshot = f"{source.prefix}_{iterations}{suffix}.pth"
        return self._job(folder, snapshot, command, *drawing, *needs)

    def _predict(self, script: str, network: Network, folder: str, result: str, flags: str) -> Job:
        training, prediction = self.train(network), self.recipe.flags("prediction", network.benchmark)
        root, drawing = self._data(network.benchmark)
        target = find_domain(BENCHMARKS[network.benchmark][1])
        command = (
            f"{script} --restore-from {_quote(training.result)} --save {_quote(self.home / folder)}"
            f" --data-dir {_quote(root / target.root)} {prediction} {flags}"
        )
        command += f" --gpu-ids {self.gpu_ids.partition(',')[0]}" if self.gpu_ids else ""  # it uses one
        return self._job(folder, result, command, *drawing, training)

    def _data(self, benchmark: str) -> tuple[Path, tuple[Job, ...]]:
        """The folder that holds ./data, and the job that draws synthetic data there."""
        plan = self.recipe.plan
        if plan is None:
            return Path(), ()
        root = self.home / benchmark
        command = (
            f"-m synthetic {_quote(root / 'data')} --benchmark {benchmark} --seed {self.seed}"
            f" --source-images {plan.train_images} --target-images {plan.train_images}"
            f" --val-images {plan.val_images}"
        )
        return root, (self._job(benchmark, "data", command),)

    def _job(self, folder: str, result: str, command: str, *needs: Job) -> Job:
        log = self.home / "logs" / f"{folder.replace('/', '-')}.txt"
        return Job(f"seed{self.seed}/{folder}", command, self.home / folder / result, log, needs)

    def resolve(self, network: Network) -> Network:
        """The network with the recipe's values for None, so that equal networks compare equal."""
        recipe = self.recipe
        if isinstance(network, Stage1):
            return replace(network, memory=recipe.memory if network.memory is None else network.memory)
        if isinstance(network, SelfTrained):
            return replace(network, start=self.resolve(network.start))
        if isinstance(network, Averaged):
            return replace(network, network=self.resolve(network.network))
        threshold = recipe.threshold(network.benchmark) if network.threshold is None else network.threshold
        return replace(
            network,
            teacher=self.resolve(network.teacher or Stage1(network.benchmark)),
            threshold=threshold,
            drop=recipe.drop if network.drop is None else network.drop,
        )


def _quote(path: Path | str) -> str:
    return shlex.quote(str(path))
