"""Flags of the trainings, as data: the papers' own, and those for the small network on the embedded data."""

from dataclasses import dataclass

ALL_PIXELS = 1.0  # the threshold that gives every pixel a pseudo label
NO_TARGET = "--lambda-adv-target1 0 --lambda-adv-target2 0"
ADVERSARIAL = "--lambda-adv-target1 0.0002 --lambda-adv-target2 0.001"


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
        """Whole target images; the labelled stream scales, crops and pads them."""
        return f"--input-size {self.target} --input-size-target {self.target} --crop-size {self.target}"


@dataclass(frozen=True)
class Plan:
    """How much is drawn and trained: images, and iterations of each training."""

    train_images: int
    val_images: int
    start: int
    stage1: int
    stage2: int
    log_every: int


# Embedded data, small network: the demo's.
SIZES = Sizes(source="256,144", target="256,128", crop="192,96")
ROBOTCAR_SIZES = Sizes(source="256,128", target="192,144", crop="192,96")
NETWORK = "--arch mini --norm-style gn --use-se"
COMMON = f"{NETWORK} --lambda-seg 0.5"
BALANCED = "--class-balance --often-balance --max-value 3"
START = f"{NO_TARGET} --batch-size 4 --learning-rate 1e-2 --warm-up 50"
MEMORY = 1.0  # lambda_kl
FROM_THE_START = "--reg-start 0"
STAGE1 = f"{ADVERSARIAL} --lambda-kl-target {MEMORY:g} {FROM_THE_START}"
RATE1 = "--batch-size 2 --learning-rate 1e-3"
# The small network's pseudo labels are much worse than a ResNet-101's: only confident pixels, a low rate.
THRESHOLD = 0.9
STAGE2 = f"{NO_TARGET} --batch-size 2 --learning-rate 2e-5 --train_bn"
FULL = Plan(train_images=240, val_images=60, start=650, stage1=280, stage2=200, log_every=10)
QUICK = Plan(train_images=16, val_images=4, start=24, stage1=6, stage2=6, log_every=2)

# The papers' networks: the commands of the README without what the tables vary.
PUBLISHED = "--warm-up 5000 --lambda-seg 0.5 --lambda-me-target 0 --norm-style gn --class-balance"
PUBLISHED += " --only-hard-label 80 --max-value 7 --often-balance --use-se"
PUBLISHED_STAGE1 = f"{PUBLISHED} --drop 0.1 --batch-size 2 --learning-rate 2e-4 --crop-size 1024,512"
PUBLISHED_STAGE2 = f"{PUBLISHED} {NO_TARGET} --batch-size 9 --learning-rate 1e-4 --crop-size 512,256"
PUBLISHED_STAGE2 += " --train_bn --autoaug False"
CITYSCAPES_STAGE2 = "--input-size 1280,640"


@dataclass(frozen=True)
class Recipe:
    """How the networks of a table are trained in one setting. Dictionaries are by benchmark.

    Args:
        setting: name of the folder for its results.
        words: what is measured, for the reader of a table.
        memory, memory_flags: lambda_kl of Stage I, and what goes with it where it is not 0.
        drop: rate of Stage II.
        thresholds: of the pseudo labels where a table does not vary it.
        stage1, stage2, prediction: flags of the scripts.
        stop1, stop2: iterations, which name the snapshots.
        gpu_ids1, gpu_ids2: GPUs of the stages; None: the scripts' default.
        plan: of the embedded data and trainings; None: the data in ./data.
        start: flags of the training that every Stage I starts from; None: ImageNet's weights.
    """

    setting: str
    words: str
    memory: float
    memory_flags: str
    drop: float
    thresholds: dict[str, float]
    stage1: dict[str, str]
    stage2: dict[str, str]
    prediction: dict[str, str]
    stop1: int
    stop2: int
    gpu_ids1: str | None = None
    gpu_ids2: str | None = None
    plan: Plan | None = None
    start: dict[str, str] | None = None


def published_recipe() -> Recipe:
    """The published flags, for the real data sets."""
    stop1, stop2 = 25000, 50000
    stage2 = f"{PUBLISHED_STAGE2} --num-steps-stop {stop2}"
    return Recipe(
        setting="published",
        words=f"published flags, {stop1} iterations of Stage I, {stop2} of Stage II",
        memory=0.1,
        memory_flags="",
        drop=0.2,
        thresholds={"gta5": ALL_PIXELS, "synthia": 0.9, "robotcar": 0.9},
        stage1=dict.fromkeys(("gta5", "synthia", "robotcar"), f"{PUBLISHED_STAGE1} --num-steps-stop {stop1}"),
        stage2={
            "gta5": f"{CITYSCAPES_STAGE2} {stage2}",
            "synthia": f"{CITYSCAPES_STAGE2} {stage2}",
            "robotcar": stage2,
        },
        prediction=dict.fromkeys(("gta5", "synthia", "robotcar"), ""),
        stop1=stop1,
        stop2=stop2,
        gpu_ids1="0,1",
        gpu_ids2="0,1,2",
    )


def embedded_recipe(quick: bool = False) -> Recipe:
    """The demo's flags and iterations."""
    plan = QUICK if quick else FULL
    sizes = {"gta5": SIZES, "synthia": SIZES, "robotcar": ROBOTCAR_SIZES}
    common = f"{COMMON} --log-every {plan.log_every}"
    steps0, steps1, steps2 = (
        f"--num-steps {n} --save-pred-every {n}" for n in (plan.start, plan.stage1, plan.stage2)
    )
    return Recipe(
        setting="embedded-quick" if quick else "embedded",
        words=(
            f"embedded data ({plan.train_images} images a domain, {plan.val_images} test images), small "
            f"network, {plan.start} + {plan.stage1} iterations of Stage I, {plan.stage2} of Stage II"
        ),
        memory=MEMORY,
        memory_flags=FROM_THE_START,
        drop=0.1,
        thresholds=dict.fromkeys(sizes, THRESHOLD),
        stage1={name: f"{common} {s.stage1} {BALANCED} {RATE1} {steps1}" for name, s in sizes.items()},
        stage2={name: f"{common} {s.stage2} {STAGE2} {steps2}" for name, s in sizes.items()},
        prediction={name: f"--input-size {s.target}" for name, s in sizes.items()},
        stop1=plan.stage1,
        stop2=plan.stage2,
        plan=plan,
        start={name: f"{common} {s.stage1} {BALANCED} {START} {steps0}" for name, s in sizes.items()},
    )
