"""How many training samples a core makes, beside the plain way and beside decoding alone.

    python benchmarks/data_path.py [--seconds 10] [--json FILE]

Self-contained: it draws street scenes of GTA5's and Cityscapes' size into a temporary folder. Every sample is
made both ways from the same random draws, and the two must agree up to one grey level. The two ways take
turns, so that other work on the machine slows both; seconds are those of the processor, except with workers.

- plain: what a competent first version does. Pillow opens and resizes the whole image and label, a loop over
  the label ids maps the whole label, NumPy crops and counts, and float32 in the network's layout is shipped.
- here: `dataset`, uint8 shipped.
- decoding: the limit, the files of the sample decoded whole by the same decoder and nothing else. A sample
  can pass it, because the rows of a PNG below the crop are not decoded.
"""

import argparse
import json
import os
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import png as pypng
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dataset import build_dataset, png  # noqa: E402
from dataset.cityscapes import CITYSCAPES_IDS  # noqa: E402
from dataset.images import FirstChannelReader  # noqa: E402
from dataset.labels import IGNORE  # noqa: E402
from dataset.sampling import TrainingStream, batches  # noqa: E402
from dataset.transforms import CROP_REDRAWS, MIN_LABEL_VALUES, MIRROR_PROBABILITY, SCALES  # noqa: E402
from synthetic import make_image  # noqa: E402
from synthetic.layouts import SOURCE, TARGET, label_palette  # noqa: E402
from utils.device import default_workers  # noqa: E402

GTA5_SIZE, CITYSCAPES_SIZE = (1914, 1052), (2048, 1024)  # width, height
IMAGES = 4  # of each domain
GTA5_IMAGES = 24_966
MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)
CITY = Path("aachen")
# Where the nearest pixel is one of two, Pillow takes either: so many label pixels may differ, and so many
# searches for a crop may count a class more and end elsewhere.
TIES, ODD_CROPS = 0.005, 0.02
SAMPLES = 200_000  # of a Stage-I run: 100,000 iterations of 2


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
        """As the training reads it."""
        return build_dataset(
            self.name,
            folder / self.root,
            input_size=self.input_size,
            crop_size=self.crop_size,
            labelled_stream=self.labelled,
        )


WORKS = (
    Work("Stage I, source", "gta5", "GTA5", (720, 1280), (512, 1024), 2, True),
    Work("Stage I, target", "cityscapes", "Cityscapes", (512, 1024), (512, 1024), 2, False),
    Work("Stage II, pseudo labels", "cityscapes_pseudo", "Cityscapes", (640, 1280), (256, 512), 9, True),
)


# The data


def draw(folder: Path, job: tuple[int, int]) -> None:
    """Write scene job = (split, index) with its label; of the target a pseudo label too."""
    split, index = job
    source = split == SOURCE
    pixels, ids = make_image(0, split, index, GTA5_SIZE if source else CITYSCAPES_SIZE)
    label = Image.fromarray(ids)
    if source:
        label.putpalette(label_palette())
        name = f"{index + 1:05}.png"
        files = {f"GTA5/images/{name}": Image.fromarray(pixels), f"GTA5/labels/{name}": label}
    else:
        train_ids = np.full(256, IGNORE, np.uint8)
        train_ids[list(CITYSCAPES_IDS)] = list(CITYSCAPES_IDS.values())
        name = f"aachen_{index:06}_000019_leftImg8bit.png"
        files = {
            f"leftImg8bit/train/{CITY / name}": Image.fromarray(pixels),
            f"gtFine/train/{CITY / name.replace('leftImg8bit', 'gtFine_labelIds')}": label,
            f"pseudo_FULL/train/{CITY / name}": Image.fromarray(train_ids[ids]),
        }
        files = {f"Cityscapes/{path}": image for path, image in files.items()}
    for path, image in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path)


# The plain way


class Plain(Dataset):
    """The samples of `Work` made from whole images in full precision, item k from the draws of position k."""

    def __init__(self, work: Work, folder: Path, length: int = SAMPLES):
        data = work.dataset(folder)
        self.work, self.length = work, length
        self.files = [(data.image_path(name), data.label_path(name), name) for name in data.names]
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


# Measuring


def processor_seconds(job: Callable[[], object]) -> float:
    """Of one call."""
    start = time.process_time()
    job()
    return time.process_time() - start


def decode_whole(data: Dataset, name: str, pillow: bool) -> None:
    """The files of a sample as arrays, by Pillow or by the decoder of `dataset`."""
    for path in (data.image_path(name), data.label_path(name)):
        pixels = None if pillow else png.decode(path.read_bytes())
        if pixels is None:
            Image.open(path).load()


def same(here: dict, plain: dict) -> bool:
    """Whether both ways made the same sample, up to one grey level."""
    pixels = (plain["image"].numpy().transpose(1, 2, 0) + MEAN_BGR)[:, :, ::-1].round()
    far = np.abs(pixels - here["image"].numpy()).max()
    return far <= 1 and np.mean(plain["label"].numpy() != here["label"].numpy()) <= TIES


def per_core(work: Work, folder: Path, seconds: float) -> dict:
    """Samples a second of one process with one thread, collated into batches."""
    data, plain = work.dataset(folder), Plain(work, folder)
    ways: dict[str, list[float]] = {"plain": [], "here": [], "decoding": [], "by Pillow": []}
    until, turn, different = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until or turn < 4 * IMAGES:
        index = turn % IMAGES
        name, made = data.names[index], {}

        def make(way: str, dataset: Dataset, index: int = index, turn: int = turn, made: dict = made) -> None:
            made[way] = dataset.sample(index, np.random.default_rng(turn))

        jobs = {
            "plain": partial(make, "plain", plain),
            "here": partial(make, "here", data),
            "decoding": partial(decode_whole, data, name, pillow=False),
            "by Pillow": partial(decode_whole, data, name, pillow=True),
        }
        for way in list(jobs) if turn % 2 else reversed(list(jobs)):
            ways[way].append(processor_seconds(jobs[way]))
        different += not same(made["here"], made["plain"])
        turn += 1
    if different > max(1, ODD_CROPS * turn):
        raise AssertionError(f"{work.title}: the two ways differ in {different} of {turn} samples")
    shipping = {
        "plain": processor_seconds(lambda: torch.stack([made["plain"]["image"]] * work.batch_size)),
        "here": processor_seconds(lambda: torch.stack([made["here"]["image"]] * work.batch_size)),
    }
    cost = {way: median(times) for way, times in ways.items()}
    for way, took in shipping.items():
        cost[way] += took / work.batch_size
    return {
        "samples": turn,
        "other_crops": different,
        "images_per_second": {way: 1 / took for way, took in cost.items()},
        "ratio": cost["plain"] / cost["here"],
        "ratio_quartiles": np.quantile(np.divide(ways["plain"], ways["here"]), (0.25, 0.75)).tolist(),
        "share_of_decoding": cost["decoding"] / cost["here"],
    }


def with_workers(work: Work, folder: Path, seconds: float, workers: int) -> dict:
    """Images a second from the loader, by the clock; the ways take turns."""
    stream = TrainingStream(work.dataset(folder), SAMPLES, (0, 0))
    options = dict(batch_size=work.batch_size, num_workers=workers)
    speeds: dict[str, list[float]] = {"plain": [], "here": []}
    for _ in range(3):
        for way in speeds:
            if way == "here":
                loader = batches(stream, work.batch_size, workers, pin_memory=False)
            else:
                loader = iter(DataLoader(Plain(work, folder), worker_init_fn=one_thread, **options))
            for _ in range(2 * workers + 1):  # the queue that filled while the workers started
                next(loader)
            start, count = time.monotonic(), 0
            while time.monotonic() - start < seconds / 6 or count < 4:
                next(loader)
                count += 1
            speeds[way].append(count * work.batch_size / (time.monotonic() - start))
            del loader
    cost = {way: median(values) for way, values in speeds.items()}
    return {"workers": workers, "images_per_second": cost, "ratio": cost["here"] / cost["plain"]}


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def peak_memory(work: Work, folder: Path, way: str) -> float:
    """MB that making samples takes at most, above what the process holds when it is ready to."""
    torch.set_num_threads(1)
    data = work.dataset(folder) if way == "here" else Plain(work, folder)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = resident("VmRSS")
    for turn in range(2 * IMAGES):
        data.sample(turn % IMAGES, np.random.default_rng(turn))
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """MB of this process: at present (VmRSS) or at most (VmHWM); nan where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


# Starting up


def link_images(folder: Path) -> None:
    """A data set of GTA5's names whose files are one."""
    for part, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("labels", np.full((8, 8), 7, np.uint8))):
        (folder / part).mkdir(parents=True)
        first = folder / part / "00001.png"
        Image.fromarray(pixels).save(first)
        for number in range(2, GTA5_IMAGES + 1):
            os.link(first, folder / part / f"{number:05}.png")


def start_here(folder: Path) -> dict:
    """As a training starts: everything until the first batch is there."""
    data = build_dataset("gta5", folder, input_size=(8, 8), crop_size=(8, 8))
    data.check(labels_required=True)
    next(batches(TrainingStream(data, SAMPLES, (0, 0)), 2, 0, pin_memory=False))
    return {"names": data.names}


def start_plain(folder: Path) -> dict:
    """A list of names as long as the training, and a dictionary a sample."""
    names = sorted(path.name for path in (folder / "images").iterdir())
    names *= -(-SAMPLES // len(names))
    files = [{"image": folder / "images" / n, "label": folder / "labels" / n, "name": n} for n in names]
    Image.open(files[0]["image"]).load()
    return {"files": files}


def startup(folder: Path) -> dict:
    """Seconds and MB that stay, of each way to start."""
    found = {}
    for way, start in (("plain", start_plain), ("here", start_here)):
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            start(folder)
            times.append(time.perf_counter() - begin)
        tracemalloc.start()
        held = start(folder)
        found[way] = {"seconds": median(times), "held_mb": tracemalloc.get_traced_memory()[0] / 1e6}
        tracemalloc.stop()
        del held
    return found


# The report


def labels_of_16_bits(folder: Path, seconds: float) -> dict:
    """Milliseconds of one core to read a SYNTHIA label of 1280x760: here, by pypng, by Pillow."""
    ids = np.random.default_rng(0).integers(0, 23, (95, 160)).repeat(8, 0).repeat(8, 1).astype(np.uint16)
    pixels = np.stack([ids, ids * 31, ids * 0], 2)
    path = folder / "synthia.png"
    with open(path, "wb") as file:
        pypng.Writer(*ids.shape[::-1], greyscale=False, bitdepth=16).write(file, pixels.reshape(len(ids), -1))
    reader = FirstChannelReader()
    assert np.array_equal(reader.read(path), ids)
    ways = {
        "here": lambda: reader.read(path),
        "pypng, all 16 bits": lambda: list(pypng.Reader(filename=str(path)).read()[2]),
        "Pillow, which keeps 8 bits and so no id": lambda: np.asarray(Image.open(path)),
    }
    taken = {way: [] for way in ways}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for way, read in ways.items():
            taken[way].append(1000 * processor_seconds(read))
    return {way: median(times) for way, times in taken.items()}


def processor() -> str:
    """Its name and how many of its cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="for each line of the tables")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--startup", action="store_true", help="measure starting up alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoder = "kornia-rs" if png.decode_8_bits else "Pillow (kornia-rs is not installed)"
    report = {"processor": processor(), "decoder": decoder}
    print(f"{report['processor']}; PNG decoder: {decoder}", flush=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if not args.startup:
            report |= measure_samples(folder, args.seconds)
            report["labels of 16 bits"] = labels_of_16_bits(folder, args.seconds)
            print("\nLabel of SYNTHIA, 16 bits, 1280x760                    ms of a core")
            for way, found in report["labels of 16 bits"].items():
                print(f"  {way:<50} {found:>10.1f}")
        link_images(folder / "many")
        report["startup"] = startup(folder / "many")
    print(f"\nStart with {GTA5_IMAGES:,} images, until the first batch      seconds   MB held")
    for way, found in report["startup"].items():
        print(f"  {way:<50} {found['seconds']:>10.2f} {found['held_mb']:>9.1f}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def measure_samples(folder: Path, seconds: float) -> dict:
    """Both tables, printed line by line."""
    jobs = [(split, index) for split in (SOURCE, TARGET) for index in range(IMAGES)]
    with get_context("spawn").Pool(1) as pool:  # drawing takes memory that must not count
        pool.map(partial(draw, folder), jobs)
    pictures = [p for p in folder.rglob("*.png") if p.parent.name == "images" or "leftImg8bit" in p.parts]
    print(f"images are PNGs of {min(p.stat().st_size for p in pictures) / 1e6:.1f} to "
          f"{max(p.stat().st_size for p in pictures) / 1e6:.1f} MB")  # fmt: skip
    print(
        "\nImages a second,                        whole files decoded             share of   peak memory, MB"
    )
    print("one core                  plain   here    Pillow     here    ratio   decoding     plain   here")
    cores, loaders = {}, {}
    for work in WORKS:
        cores[work.title] = found = per_core(work, folder, seconds)
        for way in ("plain", "here"):
            with get_context("spawn").Pool(1) as pool:
                found[f"peak_mb_{way}"] = pool.apply(peak_memory, (work, folder, way))
        speed = found["images_per_second"]
        line = f"{work.title:<24} {speed['plain']:>6.1f} {speed['here']:>6.1f}"
        line += f" {speed['by Pillow']:>9.1f} {speed['decoding']:>8.1f} {found['ratio']:>7.2f}x"
        line += f" {found['share_of_decoding']:>9.0%}"
        print(f"{line} {found['peak_mb_plain']:>9.0f} {found['peak_mb_here']:>6.0f}", flush=True)
    workers = default_workers(streams=1)
    print(f"\nImages a second, {workers} worker(s)   plain    here     ratio   (by the clock)")
    for work in WORKS:
        loaders[work.title] = found = with_workers(work, folder, seconds, workers)
        speed = found["images_per_second"]
        line = f"{work.title:<28} {speed['plain']:>8.1f} {speed['here']:>7.1f} {found['ratio']:>8.2f}x"
        print(line, flush=True)
    return {"per_core": cores, "workers": loaders}


if __name__ == "__main__":
    main()
