"""Training samples per second on one core, against a baseline and against decoding alone.

    python benchmarks/data_path.py [--seconds 10] [--json FILE]

Street scenes of GTA5's and Cityscapes' size are drawn into a temporary folder. Each sample is made both ways
from the same random draws, in turns, and the results must agree to one grey level. Seconds are CPU time.

- baseline: a competent first version. Pillow opens and resizes the whole image and label, a loop over the
  label ids maps the whole label, NumPy crops and counts; samples are float32 in the network's layout.
- ours: `dataset`; samples are uint8.
- decoding alone: our decoder on the whole files, and nothing else. A sample can be faster, because the PNG
  rows below its crop are not decoded.
"""

import sys
import time
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.harness import BASELINE, OURS, parser, print_table, write_json
from dataset import build_dataset, png
from dataset.cityscapes import CITYSCAPES_IDS
from dataset.labels import IGNORE
from dataset.transforms import CROP_REDRAWS, MIN_LABEL_VALUES, MIRROR_PROBABILITY, SCALES
from synthetic import make_image
from synthetic.layouts import SOURCE, TARGET, label_palette
from utils.preprocess import MEAN_BGR

GTA5_SIZE, CITYSCAPES_SIZE = (1914, 1052), (2048, 1024)  # width, height
IMAGES = 4  # per domain
DECODING = "decoding alone"
MEAN = np.array(MEAN_BGR, np.float32)
# Where two pixels are equally near, Pillow takes either: this share of a label's pixels may differ, and this
# share of the samples may have another crop, because one class more or less was counted.
TIES, ODD_CROPS = 0.005, 0.02


class Work(NamedTuple):
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


def draw(folder: Path, split: int, index: int) -> None:
    """Write a scene with its label and, for the target, a pseudo label."""
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
        name = f"aachen/aachen_{index:06}_000019_leftImg8bit.png"
        files = {
            f"Cityscapes/leftImg8bit/train/{name}": image,
            f"Cityscapes/gtFine/train/{name.replace('leftImg8bit', 'gtFine_labelIds')}": label,
            f"Cityscapes/pseudo_FULL/train/{name}": Image.fromarray(train_ids[ids]),
        }
    for path, picture in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / path)


class BaselineSamples:
    """The samples of `Work`, made from whole images in full precision."""

    def __init__(self, work: Work, folder: Path):
        data = work.dataset(folder)
        self.work = work
        self.files = [(data.image_path(name), data.label_path(name), name) for name in map(str, data.names)]
        pseudo = work.name.endswith("_pseudo")
        self.train_ids = {i: i for i in range(len(CITYSCAPES_IDS))} if pseudo else CITYSCAPES_IDS

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
        image = image.astype(np.float32)[:, :, ::-1] - MEAN
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "label": torch.from_numpy(cropped.astype(np.float32)),
            "name": name,
        }


def decode_whole(data: Dataset, name: str) -> None:
    """Decode the files of a sample with the decoder of `dataset`."""
    for path in (data.image_path(name), data.label_path(name)):
        if png.decode(path.read_bytes()) is None:  # without kornia-rs
            Image.open(path).load()


def same(ours: dict, baseline: dict) -> bool:
    """Whether both ways made the same sample, up to one grey level."""
    pixels = (baseline["image"].numpy().transpose(1, 2, 0) + MEAN)[:, :, ::-1].round()
    farthest = np.abs(pixels - ours["image"].numpy()).max()
    return farthest <= 1 and np.mean(baseline["label"].numpy() != ours["label"].numpy()) <= TIES


def compare_samples(work: Work, folder: Path, seconds: float) -> dict:
    """Samples per second of one process with one thread, collated into batches.

    Raises:
        SystemExit: more samples differ than equally near pixels explain.
    """
    data = work.dataset(folder)
    ways = {
        BASELINE: BaselineSamples(work, folder).sample,
        OURS: data.sample,
        DECODING: lambda index, _: decode_whole(data, data.names[index]),
    }
    spent, made = {way: [] for way in ways}, {}
    until, turn, different = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until or turn < 4 * IMAGES:
        for way, make in ways.items():
            rng = np.random.default_rng(turn)
            start = time.process_time()
            made[way] = make(turn % IMAGES, rng)
            spent[way].append(time.process_time() - start)
        different += not same(made[OURS], made[BASELINE])
        turn += 1
    if different > max(1, ODD_CROPS * turn):
        sys.exit(f"{work.title}: {different} of {turn} samples differ")
    cost = {way: median(times) for way, times in spent.items()}
    for way in (BASELINE, OURS):
        start = time.process_time()
        torch.stack([made[way]["image"]] * work.batch_size)
        cost[way] += (time.process_time() - start) / work.batch_size
    return {
        "samples": turn,
        "images_per_second": {way: 1 / took for way, took in cost.items()},
        "ratio": cost[BASELINE] / cost[OURS],
        "share_of_decoding": cost[DECODING] / cost[OURS],
    }


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--seconds", type=float, default=10, help="per row of the table")
    args = flags.parse_args()
    torch.set_num_threads(1)
    found = {"decoder": "kornia-rs" if png.decode_8_bits else "Pillow (kornia-rs is not installed)"}
    print(f"PNG decoder: {found['decoder']}", flush=True)
    rows = [("images/s, one core", BASELINE, OURS, "ratio", DECODING)]
    with TemporaryDirectory() as name:
        for split, index in product((SOURCE, TARGET), range(IMAGES)):
            draw(Path(name), split, index)
        for work in WORKS:
            found[work.title] = of_work = compare_samples(work, Path(name), args.seconds)
            speed = of_work["images_per_second"]
            rows.append((work.title, speed[BASELINE], speed[OURS], of_work["ratio"], speed[DECODING]))
    print_table(*rows)
    write_json(args.json, found)


if __name__ == "__main__":
    main()
