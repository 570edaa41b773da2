"""The cost of prediction around the network, against a baseline, in one run.

    python benchmarks/prediction.py                       # network replaced by precomputed logits
    python benchmarks/prediction.py --network             # with one of random weights, mini on a CPU
    python benchmarks/prediction.py --images 32 --json prediction.json

Set OMP_NUM_THREADS=1 on a CPU that other work shares.

Pseudo labels and evaluation of drawn pictures of 2048x1024, predicted at 1024x512 and 1280x640 as published.
Ours and the baseline take turns; where two classes are equal to rounding their labels may differ.
"""

import sys
import tempfile
from argparse import Namespace
from functools import partial
from itertools import product
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import evaluate_cityscapes
from benchmarks import harness
from benchmarks.harness import BASELINE, OURS
from dataset import PredictionDataset, SegmentationDataset, build_dataset
from dataset.cityscapes import CITYSCAPES_COLORS, CITYSCAPES_IDS
from dataset.labels import IGNORE, palette
from engine.evaluation import PixelCounts
from engine.restore import prediction_batches
from engine.result_folders import FilledFolder
from model.deeplab_multi import DeeplabMulti
from synthetic.layouts import VAL
from utils.argmax import upsample
from utils.device import count_workers
from utils.distributed import SINGLE_PROCESS
from utils.inference import predict_all, scaled_sizes
from utils.losses import CLASSIFIER_WEIGHTS
from utils.pictures import PredictionWriter
from utils.preprocess import MEAN_BGR
from utils.uncertainty import UncertaintyGap

CLASSES = len(CITYSCAPES_COLORS)
SIZE = (1024, 2048)  # height, width of the pictures
SCALES = scaled_sizes((512, 1024), (1, 1.25))
TASKS = GENERATE, EVALUATE = "pseudo labels", "evaluation"
BATCH_SIZE = 4  # images per pass of ours on a GPU


class Logits(nn.Module):
    """In place of the network: precomputed logits of its shapes; the mirror's differ a little."""

    def __init__(self, device: torch.device):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        coarse = 4 * torch.randn(2, CLASSES, 8, 16, generator=generator)
        self.logits, self.mirrored = {}, False
        for height, width in SCALES:
            smooth = F.interpolate(coarse, (height // 8, width // 8), mode="bicubic")
            passes = [smooth + 0.3 * torch.randn(smooth.shape, generator=generator) for _ in range(2)]
            self.logits[height, width] = [
                (p if k == 0 else p.flip(3)).to(device) for k, p in enumerate(passes)
            ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pair = self.logits[images.shape[2:]][self.mirrored]
        self.mirrored = not self.mirrored  # both ways show a scale and then its mirror
        return tuple(z.expand(len(images), *z.shape) for z in pair)


def ours(
    data: SegmentationDataset, network: nn.Module, task: str, folder: Path, device: torch.device
) -> Tensor | None:
    """What the scripts do: write the files; return an evaluation's confusion matrix."""
    weights, flags = {"1:0.5": CLASSIFIER_WEIGHTS}, dict(batchsize=BATCH_SIZE, num_workers=None)
    if task == GENERATE:
        images = PredictionDataset(data, SCALES, labels=False)
        batches = prediction_batches(images, Namespace(**flags), device, SINGLE_PROCESS)
        with PredictionWriter(folder, palette(data.colors), scores=False) as writer:
            for name, _, (prediction,) in predict_all(network, batches, device, [CLASSIFIER_WEIGHTS]):
                writer.write(name, prediction)
        return None
    flags |= dict(input_size=SCALES[0], scales=[1, 1.25], weights=weights)
    flags |= dict(uncertainty="kl", mc_passes=1, mc_droprate=None, random_seed=0, restore_from=None)
    args = Namespace(**flags)
    filled = FilledFolder(folder, args, data, SINGLE_PROCESS, again="start it again")
    counts, gap = PixelCounts(len(data), list(weights), CLASSES, device), UncertaintyGap(CLASSES)
    scored = evaluate_cityscapes.predictions_of_network(
        network, data, args, filled, None, gap, SINGLE_PROCESS, device
    )
    for index, image in enumerate(scored):
        counts.add(index, *image)
    counts.gather(SINGLE_PROCESS)
    gap.value()
    return counts.matrices[0, :, :CLASSES]


class BaselineImages(Dataset):
    """Images at one scale, as float BGR minus mean."""

    def __init__(self, data: SegmentationDataset, size: tuple[int, int]):
        self.data, self.size = data, size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        name = self.data.names[index]
        image = Image.open(self.data.image_path(name)).convert("RGB")
        image = np.asarray(image.resize(self.size[::-1], Image.Resampling.BICUBIC), np.float32)
        image = image[:, :, ::-1] - np.array(MEAN_BGR, np.float32)
        return image.transpose(2, 0, 1).copy(), name


@torch.no_grad()
def baseline(
    data: SegmentationDataset, network: nn.Module, task: str, folder: Path, device: torch.device
) -> Tensor | None:
    """The work of `ours` as a competent first version does it.

    One loader per scale, each reading the files; each of the four passes upsampled, copied as floats and
    summed in NumPy; argmax and maximum over the whole array; label ids in a loop; heat maps by Matplotlib;
    files saved by Pillow, one after the other.
    """
    workers = (count_workers(None) + 1) // 2  # for each loader
    loaders = [DataLoader(BaselineImages(data, size), num_workers=workers) for size in SCALES]
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for scales in zip(*loaders, strict=True):
        name, total, pairs = scales[0][1][0], 0, []
        for images, mirrored in product((images for images, _ in scales), (False, True)):
            images = images.to(device)
            z1, z2 = network(images.flip(3) if mirrored else images)
            shown = upsample((0.5 * z1 + z2).softmax(1), SIZE)
            shown = shown.flip(3) if mirrored else shown
            total = total + shown.cpu().numpy()
            pairs.append((z1.flip(3), z2.flip(3)) if mirrored else (z1, z2))
        total = total.transpose(0, 2, 3, 1)[0]
        label = np.asarray(np.argmax(total, axis=2), np.uint8)
        score = np.max(total, axis=2) / 4
        z1, z2 = pairs[0]
        if task == EVALUATE:
            z1, z2 = z1 + pairs[1][0], z2 + pairs[1][1]
        p2, log_p1, log_p2 = z2.softmax(1), z1.log_softmax(1), z2.log_softmax(1)
        divergence = upsample((p2 * (log_p2 - log_p1)).sum(1, keepdim=True), SIZE)[0, 0]

        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_heat_map(path.with_stem(f"{path.stem}_heatmap"), np.log(1 + 10 * divergence.cpu().numpy()))
        color = Image.fromarray(label)
        color.save(path)
        color.putpalette(palette(data.colors).ravel().tolist())
        color.save(path.with_stem(f"{path.stem}_color"))
        if task == EVALUATE:
            pixels = (255 * score).round().astype(np.uint8)
            Image.fromarray(pixels).save(path.with_stem(f"{path.stem}_score"))
            ids = np.array(Image.open(data.label_path(name)))
            truth = np.full(ids.shape, IGNORE, np.uint8)
            for label_id, train_id in CITYSCAPES_IDS.items():
                truth[ids == label_id] = train_id
            known = truth != IGNORE
            cells = CLASSES * truth[known].astype(int) + label[known]
            counts += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    return torch.from_numpy(counts) if task == EVALUATE else None


def save_heat_map(path: Path, heat: np.ndarray) -> None:
    figure = plt.figure()
    plt.axis("off")
    figure.colorbar(plt.imshow(heat, cmap="viridis"))
    figure.savefig(path)
    plt.close(figure)


WAYS = {OURS: ours, BASELINE: baseline}


def compare(
    data: SegmentationDataset, network: nn.Module, task: str, device: torch.device, repeats: int
) -> dict:
    """Both ways' figures for one task, and how much their labels and confusion matrices differ."""
    with tempfile.TemporaryDirectory() as name:
        folders = {way: Path(name) / way for way in WAYS}
        work = {way: partial(run, data, network, task, folders[way], device) for way, run in WAYS.items()}
        runs = harness.take_turns(work, device, repeats)
        differing = 0
        for image in data.names:
            one, two = (np.asarray(Image.open(folder / image)) for folder in folders.values())
            differing += int((one != two).sum())
    found = harness.figures(runs) | {"differing_pixels": differing}
    if task == EVALUATE:
        one, two = (runs[way][-1].value for way in WAYS)
        found["differing_counts"] = int((one - two).abs().sum())
    return found


def main() -> None:
    flags = harness.parser(__doc__)
    flags.add_argument("--images", type=int, default=12, help="pictures to predict")
    flags.add_argument("--repeats", type=int, default=3, help="turns of each way; figures are medians")
    flags.add_argument("--network", action="store_true", help="with a network instead of its logits")
    args = flags.parse_args()
    matplotlib.use("Agg")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {"device": harness.device_name(device), "workers": count_workers(None), "images": args.images}
    print(", ".join(f"{key}: {value}" for key, value in found.items()), flush=True)
    rows = [("ms per image", BASELINE, OURS, "ratio", "of each turn", "differing pixels")]
    network = Logits(device)
    if args.network:
        arch = "resnet101" if device.type == "cuda" else "mini"
        network = DeeplabMulti(CLASSES, use_se=True, norm_style="gn", arch=arch)
        network = network.to(device, memory_format=torch.channels_last).eval()
    with tempfile.TemporaryDirectory() as folder:
        harness.draw(Path(folder), VAL, args.images)
        data = build_dataset("cityscapes", Path(folder) / "Cityscapes/data", split="val")
        for task in TASKS:
            found[task] = of_task = compare(data, network, task, device, args.repeats)
            times = [1e3 * of_task[way]["seconds"] / args.images for way in (BASELINE, OURS)]
            turns = " ".join(f"{ratio:.1f}" for ratio in of_task["ratios"])
            rows.append((task, *times, of_task["ratio"], turns, of_task["differing_pixels"]))
    harness.print_table(*rows)
    harness.write_json(args.json, found)


if __name__ == "__main__":
    main()
