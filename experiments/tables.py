"""The papers' tables as data: the networks that each row compares, the measure, and the published number.

A network is declared by what distinguishes it; None stands for the recipe's default (published flags or
synthetic data). `experiments/recipes.py` turns a network into commands. `published` is None where the number
is unknown.
"""

from dataclasses import dataclass, replace

from dataset import NO_THRESHOLD, find_domain

CITYSCAPES_CLASSES = tuple(find_domain("cityscapes").colors)
SYNTHIA_CLASSES = tuple(name for name in CITYSCAPES_CLASSES if name not in ("terrain", "truck", "train"))
ROBOTCAR_CLASSES = (  # in the paper's order
    *("road", "sidewalk", "building", "light", "sign", "sky", "person", "automobile", "two-wheel"),
)
CLASS_COUNTS = {"gta5": "19 classes", "synthia": "16 classes (mIoU*: 13)", "robotcar": "9 classes"}

WEIGHTS = ("1:0.5", "1:0", "0:1", "1:1")  # primary:auxiliary; the first applies in all other tables
MIOU = ("means", "mIoU")  # keys in metrics.json
GAP = ("uncertainty_gap",)
COST = "cost"  # first key of what benchmarks/step.py measures
BACKBONES = {  # a small model of each family
    "mini": None,
    "ResNet": "timm/test_resnet",
    "ConvNeXt": "timm/test_convnext",
    "Swin": "timm/swin_tiny_patch4_window7_224",
    "ViT": "timm/test_vit",
    "PVT": "timm/pvt_v2_b0",
}


def _pixel(network: "Stage1 | Stage2") -> str:
    """The end of its name."""
    return f"-pixel{network.pixel:g}" if network.pixel else ""


def arch_suffix(network: "Stage1") -> str:
    """The end of the names of its trainings."""
    return f"-{network.arch.replace('/', '-')}" if network.arch else ""


@dataclass(frozen=True)
class Stage1:
    """A Stage-I network; without adversarial losses and memory regularization the source-only baseline."""

    benchmark: str = "gta5"  # or synthia, robotcar
    adversarial: bool = True
    memory: float | None = None  # lambda_kl, the weight of memory regularization
    adversary: str = ""  # a name in `recipes.ADVERSARIES`; empty: MRNet's
    pixel: float = 0.0  # lambda_pixel, the weight of PiPa's pixel contrast
    patch: float = 0.0  # lambda_patch, that of its patch contrast
    arch: str | None = None  # a backbone of timm; None: the recipe's network
    online: str = ""  # a name in `recipes.ONLINE`: also learns from a teacher's labels

    @property
    def name(self) -> str:
        """Folder name of a network without None."""
        losses = (self.adversary or "adversarial") if self.adversarial else "source"
        patch = f"-patch{self.patch:g}" if self.patch else ""
        more = patch + (f"-{self.online}" if self.online else "")
        return f"{self.benchmark}-{losses}-kl{self.memory:g}{_pixel(self)}{more}{arch_suffix(self)}"


SOURCE_ONLY = Stage1(adversarial=False, memory=0)


@dataclass(frozen=True)
class Stage2:
    """MRNet fine-tuned on pseudo labels."""

    benchmark: str = "gta5"
    teacher: "Stage1 | Averaged | None" = None  # makes the pseudo labels; None: MRNet itself
    threshold: float | None = None  # confidence that pseudo labels need
    portion: float = 0.0  # above 0: labels with a threshold for each class instead (CBST)
    conventional: bool = False  # cross entropy on the pseudo labels instead of the rectified loss
    divergence: str = "kl"
    drop: float | None = None  # drop rate
    memory: float = 0.0  # lambda_kl
    pixel: float = 0.0  # lambda_pixel

    @property
    def name(self) -> str:
        """Folder name of a network without None."""
        loss = "conventional" if self.conventional else f"rectified-{self.divergence}"
        return f"{self.teacher.name}-{loss}-{self.labels}-drop{self.drop:g}-kl{self.memory:g}{_pixel(self)}"

    @property
    def arch(self) -> str | None:
        return self.teacher.arch

    @property
    def labels(self) -> str:
        """How its pseudo labels are chosen, in names."""
        return f"p{self.portion:g}" if self.portion else f"t{self.threshold:g}"


@dataclass(frozen=True)
class Averaged:
    """The average of a training's networks (AdaBoost_Seg)."""

    network: Stage1 | Stage2
    sampled: bool = False  # whether the target's images are drawn by disagreement
    recent: bool = False  # measured with the network itself, not with the average

    @property
    def benchmark(self) -> str:
        return self.network.benchmark

    @property
    def arch(self) -> str | None:
        return self.network.arch

    @property
    def flags(self) -> str:
        """Of the training, beside the recipe's."""
        return f"{' --adaboost' if self.sampled else ''}{' --recent' if self.recent else ''}"

    @property
    def name(self) -> str:
        """Folder name of a network without None."""
        return f"{self.network.name}-average{self.flags.replace(' --', '-')}"


@dataclass(frozen=True)
class SelfTrained:
    """A network after rounds of self-training with class-balanced labels (CBST, CRST)."""

    rounds: int
    start: Stage1 = SOURCE_ONLY
    mr_weight_kld: float = 0.0  # MRKLD
    lr_weight_ent: float = 0.0  # LRENT

    @property
    def name(self) -> str:
        """Folder name of all rounds."""
        return f"{self.start.name}-self-trained-kld{self.mr_weight_kld:g}-ent{self.lr_weight_ent:g}"

    @property
    def benchmark(self) -> str:
        return self.start.benchmark


Network = Stage1 | Stage2 | Averaged | SelfTrained


@dataclass(frozen=True)
class Cell:
    """One number: the value at the keys `measure` in the metrics.json of a network's evaluation."""

    network: Network
    measure: tuple[str, ...] = MIOU
    published: float | None = None
    uncertainty: str = "kl"
    comparable: bool = True  # whether the published number is of this network, trained alike


@dataclass(frozen=True)
class Row:
    """A title and one cell per column."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of a paper."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    percent: bool = True

    @property
    def benchmark(self) -> str:
        return self.rows[0].cells[0].network.benchmark

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(cell for row in self.rows for cell in row.cells)


def make_table(
    name: str, title: str, *rows: tuple, columns: tuple[str, ...] = ("mIoU",), percent: bool = True
) -> Table:
    """Rows are (title, cell per column); a network alone stands for its mIoU, with no published number."""
    rows = [(head, tuple(c if isinstance(c, Cell) else Cell(c) for c in cells)) for head, *cells in rows]
    return Table(name, title, columns, tuple(Row(*row) for row in rows), percent)


def class_table(
    name: str, title: str, benchmark: str, classes: tuple[str, ...], means: tuple[str, ...], published: str
) -> Table:
    """IoU per class and the means of the four methods, one line of `published` each; `-` is unknown."""
    methods = {
        "source only": Stage1(benchmark, adversarial=False, memory=0),
        "MRNet": Stage1(benchmark),
        "conventional pseudo labels": Stage2(benchmark, conventional=True),
        "rectified pseudo labels": Stage2(benchmark),
    }
    measures = [("iou", name) for name in classes] + [("means", mean) for mean in means]
    rows = []
    for (method, network), line in zip(methods.items(), published.strip().splitlines(), strict=True):
        numbers = [None if word == "-" else float(word) for word in line.replace("|", "").split()]
        rows.append((method, *(Cell(network, *cell) for cell in zip(measures, numbers, strict=True))))
    return make_table(name, title, *rows, columns=(*classes, *means))


GTA5_IOU = """
    51.1 18.3 75.8 18.8 16.8 34.7 36.3 27.2 80.0 23.3 64.9 59.2 19.3 74.6 26.7 13.8 0.1 32.4 34.0 | 37.2
    89.1 23.9 82.2 19.5 20.1 33.5 42.2 39.1 85.3 33.7 76.4 60.2 33.7 86.0 36.1 43.3 5.9 22.8 30.8 | 45.5
    90.5 35.0 84.6 34.3 24.0 36.8 44.1 42.7 84.5 33.6 82.5 63.1 34.4 85.8 32.9 38.2 2.0 27.1 41.8 | 48.3
    90.4 31.2 85.1 36.9 25.6 37.5 48.8 48.5 85.3 34.8 81.1 64.4 36.8 86.3 34.9 52.2 1.7 29.0 44.6 | 50.3
"""
SYNTHIA_IOU = """
    44.0 19.3 70.9  8.7 0.8 28.2 16.1 16.7 79.8 81.4 57.8 19.2 46.9 17.2 12.0 43.8 | 35.2 | 40.4
    82.0 36.5 80.4  4.2 0.4 33.7 18.0 13.4 81.1 80.8 61.3 21.7 84.4 32.4 14.8 45.7 | 43.2 | 50.2
    83.1 38.2 81.7  9.3 1.0 35.1 30.3 19.9 82.0 80.1 62.8 21.1 84.4 37.8 24.5 53.3 | 46.5 | 53.8
    87.6 41.9 83.1 14.7 1.7 36.2 31.3 19.9 81.6 80.6 63.0 21.8 86.2 40.7 23.6 53.1 | 47.9 | 54.9
"""
ROBOTCAR_IOU = """
       -    -    -    -    -    -    -    -    - | 61.9
    95.9 73.5 86.2 69.3 31.9 87.3 57.9 88.8 61.5 | 72.5
    95.1 72.5 87.0 72.2 37.4 87.9 63.4 90.5 58.9 | 73.9
    95.9 73.7 87.4 72.8 43.1 88.6 61.7 89.6 57.0 | 74.4
"""
ADVERSARIAL_ONLY = Stage1(memory=0)
SOURCE = Cell(SOURCE_ONLY, published=37.2)  # GTA5 -> Cityscapes, as below
MRNET = Cell(Stage1(), published=45.5)
CONVENTIONAL = Cell(Stage2(conventional=True), published=48.3)
RECTIFIED = Cell(Stage2(), published=50.3)
AVERAGE = Averaged(Stage1())
BOOSTED = Cell(Averaged(Stage1(), sampled=True), published=49.0)
RECENT = Cell(Averaged(Stage1(), sampled=True, recent=True), published=49.72)
BOOSTED_STAGE2 = Cell(Averaged(Stage2(teacher=BOOSTED.network)), published=50.9)
CRST = (  # the paper's network had one classifier
    ("CBST", {}, 46.47),
    ("LRENT, alpha 0.25", dict(lr_weight_ent=0.25), 46.51),
    ("MRKLD, beta 0.1", dict(mr_weight_kld=0.1), 47.39),
)
ADVERSARY_ROWS = tuple(  # of other networks and whole images
    (title, Cell(Stage1(memory=0, adversary=name), published=published, comparable=False))
    for title, name, published in (
        ("AdaptSegNet, single-level", "adaptsegnet-single", 41.4),
        ("AdaptSegNet, multi-level", "adaptsegnet-multi", 42.4),
        ("AdaptSegNet, single-level, least squares", "adaptsegnet-ls", 44.1),
        ("CLAN", "clan", 43.2),
    )
)

_TABLES = (
    make_table(
        "mrnet-1",
        "The two classifiers",
        *(
            (
                f"{title} ({weights})",
                Cell(ADVERSARIAL_ONLY, ("classifiers", weights, *MIOU)),
                Cell(Stage1(), ("classifiers", weights, *MIOU), published),
            )
            for title, weights, published in (
                ("auxiliary alone", "0:1", None),
                ("primary alone", "1:0", None),
                ("both, equal", "1:1", None),
                ("both, as released", "1:0.5", MRNET.published),
            )
        ),
        columns=("without regularization", "with regularization"),
    ),
    make_table(
        "mrnet-2",
        "The losses of Stage I",
        ("source only", SOURCE),
        ("adversarial only", ADVERSARIAL_ONLY),
        ("memory regularization only", Stage1(adversarial=False)),
        ("both (MRNet)", MRNET),
    ),
    make_table(
        "mrnet-3",
        "The weight of memory regularization",
        *(
            (f"lambda_kl {weight:g}", Cell(Stage1(memory=weight), published={0.1: 45.5}.get(weight)))
            for weight in (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1)
        ),
    ),
    class_table("rectifying-2", "GTA5 -> Cityscapes", "gta5", CITYSCAPES_CLASSES, ("mIoU",), GTA5_IOU),
    class_table(
        "rectifying-3", "SYNTHIA -> Cityscapes", "synthia", SYNTHIA_CLASSES, ("mIoU", "mIoU*"), SYNTHIA_IOU
    ),
    class_table(
        "rectifying-4", "Cityscapes -> Oxford RobotCar", "robotcar", ROBOTCAR_CLASSES, ("mIoU",), ROBOTCAR_IOU
    ),
    make_table(
        "rectifying-5",
        "Pseudo labels of another model",
        (
            "adversarial only",
            ADVERSARIAL_ONLY,
            Stage2(teacher=ADVERSARIAL_ONLY, conventional=True),
            Stage2(teacher=ADVERSARIAL_ONLY),
        ),
        ("MRNet", MRNET, CONVENTIONAL, RECTIFIED),
        columns=("the model itself", "conventional", "rectified"),
    ),
    make_table(
        "rectifying-6",
        "Thresholds on pseudo labels",
        (
            "conventional, threshold 0",
            Cell(Stage2(conventional=True, threshold=NO_THRESHOLD), published=CONVENTIONAL.published),
        ),
        *(
            (f"conventional, threshold {threshold:g}", Stage2(conventional=True, threshold=threshold))
            for threshold in (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
        ),
        ("rectified, no threshold", Cell(Stage2(threshold=NO_THRESHOLD), published=RECTIFIED.published)),
    ),
    make_table(
        "rectifying-7",
        "Drop rates",
        *(
            (f"drop rate {drop:g}", Cell(Stage2(drop=drop), published={0.2: 50.3}.get(drop)))
            for drop in (0, 0.1, 0.2, 0.3, 0.5, 0.7)
        ),
    ),
    make_table(
        "rectifying-8",
        "Uncertainty: Monte-Carlo dropout or the auxiliary classifier",
        ("Monte-Carlo dropout", Cell(Stage1(), GAP, uncertainty="mc-dropout")),
        ("auxiliary classifier (KL)", Cell(Stage1(), GAP)),
        columns=("uncertainty gap",),
        percent=False,
    ),
    make_table(
        "rectifying-9",
        "The divergence",
        ("KL, as released", RECTIFIED),
        ("KL reversed, as the journal writes it", Stage2(divergence="reverse-kl")),
        ("squared distance", Stage2(divergence="squared")),
    ),
    make_table(
        "rectifying-10",
        "Memory regularization in Stage II",
        ("conventional", CONVENTIONAL),
        ("conventional + memory regularization", Stage2(conventional=True, memory=0.1)),
        ("rectified", RECTIFIED),
        ("rectified + memory regularization", Stage2(memory=0.1)),
    ),
    make_table(
        "adaboost-1",
        "Averages of the network and sampling by disagreement",
        ("last network (MRNet, rectified)", MRNET, RECTIFIED),
        ("average", AVERAGE, Averaged(Stage2(teacher=AVERAGE))),
        ("average and sampling (AdaBoost_Seg)", BOOSTED, BOOSTED_STAGE2),
        ("the same, recent network measures", RECENT, Averaged(Stage2(teacher=RECENT.network))),
        columns=("Stage I", "Stage II"),
    ),
    make_table(
        "crst-1",
        "Self-training with class-balanced pseudo labels",
        *(
            (
                title,
                Cell(SelfTrained(0), published=33.35),
                *(SelfTrained(number, **method) for number in (1, 2)),
                Cell(SelfTrained(3, **method), published=published),
            )
            for title, method, published in CRST
        ),
        columns=("source only", "round 1", "round 2", "round 3"),
    ),
    make_table(
        "related-1",
        "Adversaries",
        ("source only", SOURCE),
        ("MRNet's adversaries", ADVERSARIAL_ONLY),
        *ADVERSARY_ROWS,
        ("CLAN without weight discrepancy", Stage1(memory=0, adversary="clan-no-weight")),
        ("CLAN without disagreement map", Stage1(memory=0, adversary="clan-no-map")),
    ),
    make_table(
        "pipa-1",
        "Contrasts (PiPa)",
        ("MRNet", MRNET),
        ("+ pixel contrast", Stage1(pixel=0.1)),
        ("+ patch contrast", Stage1(patch=0.1)),
        ("+ both", Stage1(pixel=0.1, patch=0.1)),
    ),
    make_table(
        "backbones",
        "Backbones of timm",
        *(
            (
                title,
                *(Cell(Stage1(arch=arch), (COST, key)) for key in ("parameters", "ms", "peak_gb")),
                Stage1(adversarial=False, memory=0, arch=arch),
                Stage1(arch=arch),
                Stage2(teacher=Stage1(arch=arch)),
            )
            for title, arch in BACKBONES.items()
        ),
        columns=("10^6 parameters", "ms per step", "GB at its peak", "source only", "Stage I", "Stage II"),
    ),
    make_table(
        "online-1",
        "Online self-training",
        ("source only", SOURCE),
        ("MRNet", MRNET),
        ("rectified", RECTIFIED),
        *(
            (title, replace(SOURCE_ONLY, **more))
            for title, more in (
                ("DACS with AdamW", dict(online="dacs")),
                ("DAFormer's training", dict(online="daformer")),
                ("DAFormer's training + masked images (MIC)", dict(online="mic")),
                ("DAFormer's training + MRNet's adversaries", dict(online="daformer", adversarial=True)),
                ("DAFormer's training + memory regularization", dict(online="daformer", memory=None)),
                ("MIC + memory regularization", dict(online="mic", memory=None)),
            )
        ),
    ),
    make_table(
        "online-2",
        "The weight of online pseudo labels",
        *(
            (title, replace(SOURCE_ONLY, online=online))
            for title, online in (
                ("share of sure pixels, as published", "daformer"),
                ("sure pixels only", "daformer-pixel"),
                ("no weight", "daformer-none"),
                ("exp(-uncertainty), the rectifying idea", "daformer-uncertainty"),
                ("share times exp(-uncertainty)", "daformer-both"),
            )
        ),
    ),
    make_table(
        "lineage",
        "MRNet, Rectifying and the systems around them",
        ("source only", SOURCE),
        *ADVERSARY_ROWS,
        ("PiPa, pixel contrast", replace(SOURCE_ONLY, pixel=0.1)),
        ("PiPa, pixel and patch contrast", replace(SOURCE_ONLY, pixel=0.1, patch=0.1)),
        *(
            (title, Cell(SelfTrained(3, **method), published=published, comparable=False))
            for title, method, published in CRST
        ),
        ("MRNet", MRNET),
        ("MRNet + pixel contrast", Stage1(pixel=0.1)),
        ("MRNet + average", AVERAGE),
        ("MRNet + average and sampling (AdaBoost_Seg, Stage I)", BOOSTED),
        ("MRNet + rounds of class-balanced labels", SelfTrained(3, Stage1())),
        ("conventional", CONVENTIONAL),
        ("rectified", RECTIFIED),
        ("rectified + class-balanced labels", Stage2(portion=0.5)),
        ("rectified + pixel contrast", Stage2(pixel=0.1)),
        ("rectified + average", Averaged(Stage2())),
        ("rectified + average, from AdaBoost_Seg's Stage I (its Stage II)", BOOSTED_STAGE2),
    ),
)
TABLES = {table.name: table for table in _TABLES}
