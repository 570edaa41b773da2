"""The papers' tables as data: which networks a row compares, by which measure, and the published number.

A network is declared by what distinguishes it; `None` stands for what the recipe of the setting (published
flags, embedded data) does. `experiments/jobs.py` turns a network into commands. A number that is not here is
not on file; the published IoU of the classes average to the published means (tested).
"""

from dataclasses import dataclass

CITYSCAPES_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
SYNTHIA_CLASSES = tuple(name for name in CITYSCAPES_CLASSES if name not in ("terrain", "truck", "train"))
ROBOTCAR_CLASSES = (  # in the order in which the paper prints them
    *("road", "sidewalk", "building", "light", "sign", "sky", "person", "automobile", "two-wheel"),
)
CLASS_COUNTS = {"gta5": "19 classes", "synthia": "16 classes (mIoU*: 13)", "robotcar": "9 classes"}

WEIGHTS = ("1:0.5", "1:0", "0:1", "1:1")  # primary:auxiliary; the first is the one of every other table
MIOU = ("means", "mIoU")  # where a number stands in metrics.json
GAP = ("uncertainty_gap",)


@dataclass(frozen=True)
class Stage1:
    """A network of Stage I, or with neither term the source-only baseline.

    Args:
        benchmark: gta5, synthia or robotcar.
        adversarial: with both discriminators.
        memory: lambda_kl, the weight of memory regularization; None: the recipe's.
    """

    benchmark: str = "gta5"
    adversarial: bool = True
    memory: float | None = None


@dataclass(frozen=True)
class Stage2:
    """A network fine-tuned on pseudo labels.

    Args:
        start: the Stage-I network it starts from.
        teacher: the one that made the pseudo labels; None: `start`.
        threshold: of the pseudo labels; 0: every pixel has one; None: the recipe's.
        conventional: pseudo labels taken as true labels instead of rectified.
        divergence, drop, memory: which divergence, drop rate (None: the recipe's), lambda_kl.
    """

    start: Stage1 = Stage1()
    teacher: Stage1 | None = None
    threshold: float | None = None
    conventional: bool = False
    divergence: str = "kl"
    drop: float | None = None
    memory: float = 0.0

    @property
    def benchmark(self) -> str:
        return self.start.benchmark


Network = Stage1 | Stage2


@dataclass(frozen=True)
class Cell:
    """A number: `measure` of a network's evaluation, and what the paper prints, where that is on file."""

    network: Network
    measure: tuple[str, ...] = MIOU
    published: float | None = None
    uncertainty: str = "kl"


@dataclass(frozen=True)
class Row:
    """A title and a cell for each column; `embedded_only` is no row of the paper's."""

    title: str
    cells: tuple[Cell, ...]
    embedded_only: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a paper: `shows` says in a line what it is about; `percent`: its numbers are shares."""

    name: str
    title: str
    shows: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    percent: bool = True

    @property
    def benchmark(self) -> str:
        return self.rows[0].cells[0].network.benchmark

    def rows_in(self, embedded: bool) -> tuple[Row, ...]:
        """Its rows in a setting."""
        return tuple(row for row in self.rows if embedded or not row.embedded_only)


SOURCE_ONLY = Stage1(adversarial=False, memory=0)
ADVERSARIAL_ONLY = Stage1(memory=0)
MEMORY_ONLY = Stage1(adversarial=False)
MRNET = Stage1()
CONVENTIONAL = Stage2(conventional=True)
RECTIFIED = Stage2()
METHODS = ("source only", "MRNet", "conventional pseudo labels", "rectified pseudo labels")


def methods_of(benchmark: str) -> tuple[Network, ...]:
    """The four networks of `METHODS`."""
    stage1 = Stage1(benchmark)
    source_only = Stage1(benchmark, adversarial=False, memory=0)
    return source_only, stage1, Stage2(stage1, conventional=True), Stage2(stage1)


def row(title: str, *cells: Cell) -> Row:
    """A row of the paper's table."""
    return Row(title, cells)


def class_table(
    name: str,
    title: str,
    benchmark: str,
    classes: tuple[str, ...],
    means: tuple[str, ...],
    published: tuple[str, ...],
) -> Table:
    """IoU of each class and the means for `METHODS`.

    `published` holds a line for each: numbers in the order of the columns, or `-` where none is on file.
    """
    measures = [("iou", c) for c in classes] + [("means", mean) for mean in means]
    rows = []
    for method, network, line in zip(METHODS, methods_of(benchmark), published, strict=True):
        numbers = [None if word == "-" else float(word) for word in line.replace("|", " ").split()]
        cells = zip(measures, numbers, strict=True)
        rows.append(Row(method, tuple(Cell(network, *cell) for cell in cells)))
    shows = "IoU of each class for source only, Stage I and both kinds of Stage II"
    return Table(name, title, shows, (*classes, *means), tuple(rows))


_TABLES = (
    Table(
        "mrnet-1",
        "The two classifiers",
        "auxiliary and primary classifier alone and together, without and with memory regularization",
        ("without regularization", "with regularization"),
        tuple(
            Row(
                f"{title} ({weights})",
                (
                    Cell(ADVERSARIAL_ONLY, ("classifiers", weights, *MIOU)),
                    Cell(MRNET, ("classifiers", weights, *MIOU), published),
                ),
            )
            for title, weights, published in (
                ("auxiliary alone", "0:1", None),
                ("primary alone", "1:0", None),
                ("both, equal", "1:1", None),
                ("both, as released", "1:0.5", 45.5),
            )
        ),
    ),
    Table(
        "mrnet-2",
        "The losses of Stage I",
        "what the adversarial losses and memory regularization contribute",
        ("mIoU",),
        (
            row("source only", Cell(SOURCE_ONLY, published=37.2)),
            row("adversarial only", Cell(ADVERSARIAL_ONLY)),
            row("memory regularization only", Cell(MEMORY_ONLY)),
            row("both (MRNet)", Cell(MRNET, published=45.5)),
        ),
    ),
    Table(
        "mrnet-3",
        "The weight of memory regularization",
        "Stage I with different lambda_kl",
        ("mIoU",),
        (
            *(
                row(f"lambda_kl {w:g}", Cell(Stage1(memory=w), published=45.5 if w == 0.1 else None))
                for w in (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1)
            ),
            Row("lambda_kl 4", (Cell(Stage1(memory=4)),), embedded_only=True),
        ),
    ),
    class_table(
        "rectifying-2",
        "GTA5 -> Cityscapes",
        "gta5",
        CITYSCAPES_CLASSES,
        ("mIoU",),
        (
            "51.1 18.3 75.8 18.8 16.8 34.7 36.3 27.2 80.0 23.3 64.9 59.2 19.3 74.6 26.7 13.8 0.1 32.4 34.0"
            " | 37.2",
            "89.1 23.9 82.2 19.5 20.1 33.5 42.2 39.1 85.3 33.7 76.4 60.2 33.7 86.0 36.1 43.3 5.9 22.8 30.8"
            " | 45.5",
            "90.5 35.0 84.6 34.3 24.0 36.8 44.1 42.7 84.5 33.6 82.5 63.1 34.4 85.8 32.9 38.2 2.0 27.1 41.8"
            " | 48.3",
            "90.4 31.2 85.1 36.9 25.6 37.5 48.8 48.5 85.3 34.8 81.1 64.4 36.8 86.3 34.9 52.2 1.7 29.0 44.6"
            " | 50.3",
        ),
    ),
    class_table(
        "rectifying-3",
        "SYNTHIA -> Cityscapes",
        "synthia",
        SYNTHIA_CLASSES,
        ("mIoU", "mIoU*"),
        (
            "44.0 19.3 70.9 8.7 0.8 28.2 16.1 16.7 79.8 81.4 57.8 19.2 46.9 17.2 12.0 43.8 | 35.2 | 40.4",
            "82.0 36.5 80.4 4.2 0.4 33.7 18.0 13.4 81.1 80.8 61.3 21.7 84.4 32.4 14.8 45.7 | 43.2 | 50.2",
            "83.1 38.2 81.7 9.3 1.0 35.1 30.3 19.9 82.0 80.1 62.8 21.1 84.4 37.8 24.5 53.3 | 46.5 | 53.8",
            "87.6 41.9 83.1 14.7 1.7 36.2 31.3 19.9 81.6 80.6 63.0 21.8 86.2 40.7 23.6 53.1 | 47.9 | 54.9",
        ),
    ),
    class_table(
        "rectifying-4",
        "Cityscapes -> Oxford RobotCar",
        "robotcar",
        ROBOTCAR_CLASSES,
        ("mIoU",),
        (
            "- - - - - - - - - | 61.9",
            "95.9 73.5 86.2 69.3 31.9 87.3 57.9 88.8 61.5 | 72.5",
            "95.1 72.5 87.0 72.2 37.4 87.9 63.4 90.5 58.9 | 73.9",
            "95.9 73.7 87.4 72.8 43.1 88.6 61.7 89.6 57.0 | 74.4",
        ),
    ),
    Table(
        "rectifying-5",
        "Pseudo labels of another model",
        "MRNet fine-tuned on pseudo labels of a network trained with the adversarial losses alone (those of "
        "AdaptSegNet, which it stands for), and on its own",
        ("the model itself", "conventional", "rectified"),
        (
            row(
                "adversarial only",
                Cell(ADVERSARIAL_ONLY),
                Cell(Stage2(teacher=ADVERSARIAL_ONLY, conventional=True)),
                Cell(Stage2(teacher=ADVERSARIAL_ONLY)),
            ),
            row(
                "MRNet",
                Cell(MRNET, published=45.5),
                Cell(CONVENTIONAL, published=48.3),
                Cell(RECTIFIED, published=50.3),
            ),
        ),
    ),
    Table(
        "rectifying-6",
        "Thresholds on pseudo labels",
        "conventional pseudo labels of confident pixels only, and rectified ones of all pixels",
        ("mIoU",),
        (
            *(
                row(
                    f"conventional, threshold {threshold:g}",
                    Cell(
                        Stage2(conventional=True, threshold=threshold),
                        published=48.3 if threshold == 0 else None,
                    ),
                )
                for threshold in (0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
            ),
            row("rectified, no threshold", Cell(Stage2(threshold=0), published=50.3)),
        ),
    ),
    Table(
        "rectifying-7",
        "Drop rates",
        "rectified pseudo labels with different drop rates in Stage II",
        ("mIoU",),
        tuple(
            row(f"drop rate {drop:g}", Cell(Stage2(drop=drop), published=50.3 if drop == 0.2 else None))
            for drop in (0, 0.1, 0.2, 0.3, 0.5, 0.7)
        ),
    ),
    Table(
        "rectifying-8",
        "Uncertainty: Monte-Carlo dropout or the auxiliary classifier",
        "mean exp(-uncertainty) over right minus wrong predictions of Stage I, by both measures",
        ("uncertainty gap",),
        (
            row("Monte-Carlo dropout", Cell(MRNET, GAP, uncertainty="mc-dropout")),
            row("auxiliary classifier (KL)", Cell(MRNET, GAP)),
        ),
        percent=False,
    ),
    Table(
        "rectifying-9",
        "The divergence",
        "rectified pseudo labels with other divergences of the two classifiers",
        ("mIoU",),
        (
            row("KL, as released", Cell(RECTIFIED, published=50.3)),
            row("KL reversed, as the journal writes it", Cell(Stage2(divergence="reverse-kl"))),
            row("squared distance", Cell(Stage2(divergence="squared"))),
        ),
    ),
    Table(
        "rectifying-10",
        "Memory regularization in Stage II",
        "both kinds of Stage II without and with memory regularization (lambda_kl 0.1)",
        ("mIoU",),
        (
            row("conventional", Cell(CONVENTIONAL, published=48.3)),
            row("conventional + memory regularization", Cell(Stage2(conventional=True, memory=0.1))),
            row("rectified", Cell(RECTIFIED, published=50.3)),
            row("rectified + memory regularization", Cell(Stage2(memory=0.1))),
        ),
    ),
)
TABLES = {table.name: table for table in _TABLES}
