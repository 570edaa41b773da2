"""Training samples per second and core, against a baseline and against decoding alone.

    python benchmarks/data_path.py [--seconds 10] [--json FILE]

It draws street scenes of GTA5's and Cityscapes' size into a temporary folder. Every sample is made both ways
from the same random draws, and the two must agree up to one grey level. The ways take turns; seconds are CPU
time, except with workers.

- baseline: a competent first version. Pillow opens and resizes the whole image and label, a loop over the
  label ids maps the whole label, NumPy crops and counts, and float32 in the network's layout is shipped.
- ours: `dataset`, which ships uint8.
- decoding: the limit, the sample's files decoded whole by our decoder and nothing else. A sample can be
  faster, because the PNG rows below the crop are not decoded.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.harness import (
    BASELINE,
    OURS,
    parser,
    print_table,
    take_turns,
    write_json,
)
from dataset import build_dataset, png
from dataset.cityscapes import CITYSCAPES_IDS
from dataset.labels import IGNORE
from dataset.sampling import TrainingStream, batches
from dataset.transforms import CROP_REDRAWS, MIN_LABEL_VALUES, MIRROR_PROBABILITY, SCALES
from synthetic import make_image
from synthetic.layouts import SOURCE, TARGET, label_palette
from utils.device import default_workers

GTA5_SIZE, CITYSCAPES_SIZE = (1914, 1052), (2048, 1024)  # width, height
IMAGES = 4  # per domain
MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)
CITY = Path("aachen")
# Where two pixels are equally near, Pillow takes either: this share of the label's pixels may differ, and
# this share of the samples may find another crop because a class more or less is counted.
TIES, ODD_CROPS = 0.005, 0.02
SAMPLES = 200_000  # of a Stage-I run: 100,000 iterations of 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """A stream of one of the published commands; sizes are (height, width)."""

    title: str
    name: str  # of the data set
    root: str
    input_size: tuple[int, int]
    crop_size: tuple[int, int]
    batch_size: int
    labelled: bool

    def dataset(self, folder: Path) -> Dataset:
        """The data set as train_ms.py or train_ft.py builds it."""
        sizes = dict(input_size=self.input_size, crop_size=self.crop_size)
        return build_dataset(self.name, folder / self.root, labelled_stream=self.labelled, **sizes)


WORKS = (
    Work("Stage I, source", "gta5", "GTA5", (720, 1280), (512, 1024), 2, True),
    Work("Stage I, target", "cityscapes", "Cityscapes", (512, 1024), (512, 1024), 2, False),
    Work("Stage II, pseudo labels", "cityscapes_pseudo", "Cityscapes", (640, 1280), (256, 512), 9, True),
)


def draw(folder: Path, job: tuple[int, int]) -> None:
    """Write scene job = (split, index) with its label, and a pseudo label for the target."""
    split, index = job
    source = split == SOURCE
    pixels, ids = make_image(0, split, index, GTA5_SIZE if source else CITYSCAPES_SIZE)
    image, label = Image.fromarray(pixels), Image.fromarray(ids)
    if source:
        label.putpalette(label_palette())
        name = f"{index + 1:05}.png"
        files = {f"GTA5/images/{name}": image, f"GTA5/labels/{name}": label}
    else:
        train_ids = np.full(256, IGNORE, np.uint8)
        train_ids[list(CITYSCAPES_IDS)] = list(CITYSCAPES_IDS.values())
        name = str(CITY / f"aachen_{index:06}_000019_leftImg8bit.png")
        files = {
            f"Cityscapes/leftImg8bit/train/{name}": image,
            f"Cityscapes/gtFine/train/{name.replace('leftImg8bit', 'gtFine_labelIds')}": label,
            f"Cityscapes/pseudo_FULL/train/{name}": Image.fromarray(train_ids[ids]),
        }
    for path, picture in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / path)


class BaselineSamples(Dataset):
    """The samples of `Work` made from whole images in full precision; item k uses the draws of position k."""

    def __init__(self, work: Work, folder: Path, length: int = SAMPLES):
        data = work.dataset(folder)
        self.work, self.length = work, length
        self.files = [(data.image_path(name), data.label_path(name), name) for name in map(str, data.names)]
        pseudo = work.name.endswith("_pseudo")
        self.train_ids = {i: i for i in range(len(CITYSCAPES_IDS))} if pseudo else CITYSCAPES_IDS

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict:
        return self.sample(position % len(self.files), np.random.default_rng(position))

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        image_path, label_path, name = self.files[index]
        image = Image.open(image_path).convert("RGB")
        ids = np.asarray(Image.open(label_path))
        label = np.full(ids.shape, IGNORE, np.uint8)
        for label_id, train_id in self.train_ids.items():
            label[ids == label_id] = train_id

        factor = rng.uniform(*SCALES) if self.work.labelled else 1.0
        height, width = (round(factor * side) for side in self.work.input_size)
        image = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))

        crop_height, crop_width = self.work.crop_size
        for _ in range(1 + CROP_REDRAWS):
            top = rng.integers(height - crop_height + 1)
            left = rng.integers(width - crop_width + 1)
            cropped = label[top : top + crop_height, left : left + crop_width]
            if not self.work.labelled or len(np.unique(cropped)) > MIN_LABEL_VALUES:
                break
        image = image[top : top + crop_height, left : left + crop_width]
        if self.work.labelled and rng.random() < MIRROR_PROBABILITY:
            image, cropped = image[:, ::-1], cropped[:, ::-1]
        image = image.astype(np.float32)[:, :, ::-1] - MEAN_BGR
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "label": torch.from_numpy(cropped.astype(np.float32)),
            "name": name,
        }


def decode_whole(data: Dataset, name: str, pillow: bool) -> None:
    """Decode the files of a sample, with Pillow or with the decoder of `dataset`."""
    for path in (data.image_path(name), data.label_path(name)):
        pixels = None if pillow else png.decode(path.read_bytes())
        if pixels is None:
            Image.open(path).load()


def same(ours: dict, baseline: dict) -> bool:
    """Whether both ways made the same sample, up to one grey level."""
    pixels = (baseline["image"].numpy().transpose(1, 2, 0) + MEAN_BGR)[:, :, ::-1].round()
    farthest = np.abs(pixels - ours["image"].numpy()).max()
    return farthest <= 1 and np.mean(baseline["label"].numpy() != ours["label"].numpy()) <= TIES


def per_core(work: Work, folder: Path, seconds: float) -> dict:
    """Samples per second of one process with one thread, collated into batches."""
    data, baseline = work.dataset(folder), BaselineSamples(work, folder)
    spent: dict[str, list[float]] = {BASELINE: [], OURS: [], "decoding": [], "by Pillow": []}
    until, turn, different = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until or turn < 4 * IMAGES:
        index, name, made = turn % IMAGES, data.names[turn % IMAGES], {}

        def make(way: str, dataset: Dataset, index: int = index, turn: int = turn, made: dict = made) -> None:
            made[way] = dataset.sample(index, np.random.default_rng(turn))

        jobs = {
            BASELINE: partial(make, BASELINE, baseline),
            OURS: partial(make, OURS, data),
            "decoding": partial(decode_whole, data, name, pillow=False),
            "by Pillow": partial(decode_whole, data, name, pillow=True),
        }
        for way in list(jobs) if turn % 2 else reversed(list(jobs)):
            spent[way].append(cpu_time(jobs[way]))
        different += not same(made[OURS], made[BASELINE])
        turn += 1
    if different > max(1, ODD_CROPS * turn):
        raise AssertionError(f"{work.title}: {different} of {turn} samples differ")
    cost = {way: median(times) for way, times in spent.items()}
    for way in (BASELINE, OURS):  # collation
        images = [made[way]["image"]] * work.batch_size
        cost[way] += cpu_time(partial(torch.stack, images)) / work.batch_size
    return {
        "samples": turn,
        "other_crops": different,
        "images_per_second": {way: 1 / took for way, took in cost.items()},
        "ratio": cost[BASELINE] / cost[OURS],
        "ratio_quartiles": np.quantile(np.divide(spent[BASELINE], spent[OURS]), (0.25, 0.75)).tolist(),
        "share_of_decoding": cost["decoding"] / cost[OURS],
    }


def cpu_time(job: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    job()
    return time.process_time() - start


def with_workers(work: Work, folder: Path, seconds: float, workers: int) -> dict:
    """Images per second from the loader, by the clock."""
    stream = TrainingStream(work.dataset(folder), SAMPLES, (0, 0))
    options = dict(batch_size=work.batch_size, num_workers=workers)

    def batches_of(way: str) -> int:
        if way == OURS:
            loader = batches(stream, work.batch_size, workers, pin_memory=False)
        else:
            loader = iter(DataLoader(BaselineSamples(work, folder), worker_init_fn=one_thread, **options))
        for _ in range(2 * workers + 1):  # the queue filled while the workers started
            next(loader)
        start, count = time.monotonic(), 0
        while time.monotonic() - start < seconds / 6 or count < 4:
            next(loader)
            count += 1
        return count * work.batch_size / (time.monotonic() - start)

    turns = take_turns({way: partial(batches_of, way) for way in (BASELINE, OURS)}, CPU, rounds=3)
    speed = {way: median(run.value for run in runs) for way, runs in turns.items()}
    return {"workers": workers, "images_per_second": speed, "ratio": speed[OURS] / speed[BASELINE]}


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def measure_streams(folder: Path, seconds: float) -> dict:
    """Both tables, printed."""
    found = {"per_core": {}, "workers": {}}
    rows = [("images/s, one core", BASELINE, OURS, "ratio", "decoding alone", "by Pillow")]
    for work in WORKS:
        found["per_core"][work.title] = core = per_core(work, folder, seconds)
        speed = core["images_per_second"]
        cells = speed[BASELINE], speed[OURS], core["ratio"], speed["decoding"], speed["by Pillow"]
        rows.append((work.title, *cells))
    print_table(*rows)
    workers = default_workers(streams=1)
    rows = [(f"images/s, {workers} workers", BASELINE, OURS, "ratio")]
    for work in WORKS:
        found["workers"][work.title] = loader = with_workers(work, folder, seconds, workers)
        rows.append((work.title, *loader["images_per_second"].values(), loader["ratio"]))
    print_table(*rows)
    return found


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--seconds", type=float, default=10, help="per row of the tables")
    args = flags.parse_args()
    torch.set_num_threads(1)
    decoder = "kornia-rs" if png.decode_8_bits else "Pillow (kornia-rs is not installed)"
    print(f"{default_workers(streams=1)} cores; PNG decoder: {decoder}", flush=True)
    with TemporaryDirectory() as name:
        for split, index in product((SOURCE, TARGET), range(IMAGES)):
            draw(Path(name), (split, index))
        found = {"decoder": decoder} | measure_streams(Path(name), args.seconds)
    write_json(args.json, found)


if __name__ == "__main__":
    main()
