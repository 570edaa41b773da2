"""Training samples per second on one core, against a baseline.

    python benchmarks/data_path.py [--seconds 10] [--json FILE]

Street scenes of GTA5's and Cityscapes' size are drawn into a temporary folder. Each sample is made both ways
from the same random draws, in turns; a test compares them. Seconds are CPU time.

- baseline: a competent first version. Pillow opens and resizes the whole image and label, a loop over the
  label ids maps the whole label, NumPy crops and counts; samples are float32 in the network's layout.
- ours: `dataset`; samples are uint8.
"""

import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.harness import BASELINE, OURS, draw, parser, print_table, write_json
from dataset import SegmentationDataset, build_dataset
from dataset.cityscapes import CITYSCAPES_IDS
from dataset.labels import IGNORE
from dataset.transforms import CROP_REDRAWS, MIN_LABEL_VALUES, MIRROR_PROBABILITY, SCALES, Size
from synthetic.layouts import SOURCE, TARGET, save
from utils.preprocess import MEAN_BGR

IMAGES = 4  # per domain
CITYSCAPES = "Cityscapes/data"
MEAN = np.array(MEAN_BGR, np.float32)

WORKS = {  # data set, folder, input and crop (height, width) of the published commands' streams
    "Stage I, source": ("gta5", "GTA5", (720, 1280), (512, 1024)),
    "Stage I, target": ("cityscapes", CITYSCAPES, (512, 1024), (512, 1024)),
    "Stage II, pseudo labels": ("cityscapes_pseudo", CITYSCAPES, (640, 1280), (256, 512)),
}


def open_stream(folder: Path, name: str, root: str, input_size: Size, crop_size: Size) -> SegmentationDataset:
    """The data set as train_ms.py or train_ft.py builds it."""
    return build_dataset(name, folder / root, input_size=input_size, crop_size=crop_size)


def draw_domains(folder: Path) -> None:
    """Draw both domains; the target's labels are its pseudo labels too."""
    draw(folder, SOURCE, IMAGES)
    draw(folder, TARGET, IMAGES)
    target = build_dataset("cityscapes", folder / CITYSCAPES)
    for name in target.names:
        save(folder / CITYSCAPES / "pseudo_FULL/train" / name, target.train_ids(name))


def baseline_sample(data: SegmentationDataset, index: int, rng: np.random.Generator) -> dict:
    """The sample of `data`, made from whole images in full precision."""
    name, view, labelled = str(data.names[index]), data.view, data.view.random_scale
    image = Image.open(data.image_path(name)).convert("RGB")
    ids = np.asarray(Image.open(data.label_path(name)))
    label = np.full(ids.shape, IGNORE, np.uint8)
    train_ids = {i: i for i in CITYSCAPES_IDS.values()} if data.pseudo_folder else CITYSCAPES_IDS
    for label_id, train_id in train_ids.items():
        label[ids == label_id] = train_id

    factor = rng.uniform(*SCALES) if labelled else 1.0
    height, width = (round(factor * side) for side in view.input_size)
    image = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))

    crop_height, crop_width = view.crop_size
    for _ in range(1 + CROP_REDRAWS):
        top = rng.integers(height - crop_height + 1)
        left = rng.integers(width - crop_width + 1)
        cropped = label[top : top + crop_height, left : left + crop_width]
        if not labelled or len(np.unique(cropped)) > MIN_LABEL_VALUES:
            break
    image = image[top : top + crop_height, left : left + crop_width]
    if labelled and rng.random() < MIRROR_PROBABILITY:
        image, cropped = image[:, ::-1], cropped[:, ::-1]
    image = image.astype(np.float32)[:, :, ::-1] - MEAN
    return {
        "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
        "label": torch.from_numpy(cropped.astype(np.float32)),
        "name": name,
    }


def compare_samples(data: SegmentationDataset, seconds: float) -> dict:
    """Samples per second of one process with one thread, with collation."""
    ways = {BASELINE: partial(baseline_sample, data), OURS: data.sample}
    spent = {way: [] for way in ways}
    until, turn = time.monotonic() + seconds, 0
    while time.monotonic() < until or turn < 4 * IMAGES:
        for way, make in ways.items():
            start = time.process_time()
            sample = make(turn % IMAGES, np.random.default_rng(turn))
            torch.stack([sample["image"]])  # its share of the collation
            spent[way].append(time.process_time() - start)
        turn += 1
    speed = {way: 1 / median(times) for way, times in spent.items()}
    return {"samples": turn, "images_per_second": speed, "ratio": speed[OURS] / speed[BASELINE]}


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--seconds", type=float, default=10, help="per row of the table")
    args = flags.parse_args()
    torch.set_num_threads(1)
    found, rows = {}, [("images/s, one core", BASELINE, OURS, "ratio")]
    with TemporaryDirectory() as folder:
        draw_domains(Path(folder))
        for title, work in WORKS.items():
            found[title] = of_work = compare_samples(open_stream(Path(folder), *work), args.seconds)
            rows.append((title, *of_work["images_per_second"].values(), of_work["ratio"]))
    print_table(*rows)
    write_json(args.json, found)


if __name__ == "__main__":
    main()
