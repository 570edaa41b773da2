"""The cost of prediction around the network, against a baseline, in one run.

    python benchmarks/prediction.py                       # network replaced by precomputed logits
    python benchmarks/prediction.py --network             # and with it: images/s, share of the network
    python benchmarks/prediction.py --images 32 --json prediction.json

Set OMP_NUM_THREADS=1 on a CPU that other work shares.

Pseudo labels and evaluation of drawn pictures of 2048x1024, predicted at 1024x512 and 1280x640 as published.
The baseline is a competent first version, see `Baseline`. Both ways must write the same labels and count the
same confusion matrix. They take turns; figures are medians.
"""

import sys
import tempfile
from argparse import Namespace
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import evaluate_cityscapes
from benchmarks.harness import (
    BASELINE,
    GB,
    OURS,
    device_name,
    figures,
    parser,
    print_table,
    take_turns,
    write_json,
)
from dataset import PredictionDataset, SegmentationDataset, build_dataset
from dataset.cityscapes import CITYSCAPES_COLORS, CITYSCAPES_IDS
from dataset.labels import IGNORE, palette
from engine.evaluation import PixelCounts
from engine.restore import prediction_batches
from model.deeplab_multi import DeeplabMulti
from synthetic import make_image
from synthetic.layouts import VAL
from utils.argmax import upsample
from utils.device import default_workers
from utils.distributed import SINGLE_PROCESS
from utils.inference import predict_all, scaled_sizes
from utils.losses import CLASSIFIER_WEIGHTS
from utils.pictures import PredictionWriter
from utils.preprocess import MEAN_BGR, to_network_input
from utils.uncertainty import UncertaintyGap

try:
    import matplotlib
except ImportError:
    sys.exit("benchmarks/prediction.py needs Matplotlib: pip install -r requirements-dev.txt")
matplotlib.use("Agg")
import matplotlib.pyplot as plt

CLASSES = len(CITYSCAPES_COLORS)
SIZE = (1024, 2048)  # height, width of the pictures
SCALES = scaled_sizes((512, 1024), (1, 1.25))
DRAWN = (480, 240)  # width, height at which scenes are drawn before they are enlarged
GRAIN = 1.0  # sensor noise, which brings the files to the 2.4 MB of Cityscapes' own
TIES = 1e-5  # share of the pixels whose label may depend on rounding
GENERATE, EVALUATE = TASKS = "pseudo labels", "evaluation"


def draw(root: Path, count: int) -> SegmentationDataset:
    """Pictures and labels in Cityscapes' layout that compress like photographs."""
    for index in range(count):
        drawn, ids = map(Image.fromarray, make_image(0, VAL, index, DRAWN))
        image = drawn.resize(SIZE[::-1], Image.Resampling.BICUBIC)
        ids = ids.resize(SIZE[::-1], Image.Resampling.NEAREST)
        grain = np.random.default_rng(index).normal(0, GRAIN, (*SIZE, 1))
        image = Image.fromarray((np.asarray(image) + grain).round().clip(0, 255).astype(np.uint8))
        for kind, picture in (("leftImg8bit", image), ("gtFine", ids)):
            suffix = "gtFine_labelIds" if kind == "gtFine" else kind
            path = root / kind / "val" / "drawn" / f"drawn_{index:06}_000019_{suffix}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, compress_level=6)
    return build_dataset("cityscapes", root, split="val")


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


class Ours:
    """What the scripts do."""

    def __init__(self, data: SegmentationDataset, device: torch.device, flags: Namespace):
        self.data, self.device, self.flags = data, device, flags

    def run(self, task: str, network: nn.Module, folder: Path) -> Tensor | None:
        """Predict all images and write to `folder`; return an evaluation's confusion matrix."""
        if task == EVALUATE:
            return self.evaluate(network, folder)
        images = PredictionDataset(self.data, SCALES, labels=False)
        batches = prediction_batches(images, self.flags, self.device, SINGLE_PROCESS)
        with PredictionWriter(folder, palette(self.data.colors), scores=False) as writer:
            for name, _, (prediction,) in predict_all(network, batches, self.device, [CLASSIFIER_WEIGHTS]):
                writer.write(name, prediction)
        return None

    def evaluate(self, network: nn.Module, folder: Path) -> Tensor:
        options = dict(uncertainty="kl", mc_passes=1, mc_droprate=None, random_seed=0)
        flags = dict(input_size=SCALES[0], scales=[1, 1.25], weights={"1:0.5": CLASSIFIER_WEIGHTS})
        args = Namespace(**vars(self.flags), **options, **flags)
        evaluate_cityscapes.restore_network = lambda *_: network
        counts = PixelCounts(len(self.data), list(flags["weights"]), CLASSES, self.device)
        gap = UncertaintyGap(CLASSES)
        scored = evaluate_cityscapes.predictions_of_network(
            self.data, args, folder, gap, SINGLE_PROCESS, self.device
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


class Baseline:
    """One loader per scale, each reading the files; each of the four passes upsampled, fetched as floats and
    summed in NumPy; argmax and maximum over the whole array; label ids in a loop; heat maps by Matplotlib;
    files saved by Pillow, one after the other.
    """

    def __init__(self, data: SegmentationDataset, device: torch.device, workers: int):
        self.data, self.device, self.workers = data, device, workers
        self.palette = palette(data.colors).ravel().tolist()

    @torch.no_grad()
    def run(self, task: str, network: nn.Module, folder: Path) -> Tensor | None:
        """As `Ours.run`."""
        share = (self.workers + 1) // 2  # of the workers, for each loader
        loaders = [DataLoader(BaselineImages(self.data, size), num_workers=share) for size in SCALES]
        counts = np.zeros((CLASSES, CLASSES), np.int64)
        for scales in zip(*loaders, strict=True):
            name, total, pairs = scales[0][1][0], 0, []
            for images, mirrored in product((images for images, _ in scales), (False, True)):
                images = images.to(self.device)
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
            self.save_heat_map(folder, name, np.log(1 + 10 * divergence.cpu().numpy()))
            self.save(folder, name, "", label)
            color = Image.fromarray(label).convert("P")
            color.putpalette(self.palette)
            color.save(self.path(folder, name, "_color"))
            if task == EVALUATE:
                self.save(folder, name, "_score", (255 * score).round().astype(np.uint8))
                truth = self.train_ids(name)
                known = truth != IGNORE
                cells = CLASSES * truth[known].astype(int) + label[known]
                counts += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
        return torch.from_numpy(counts) if task == EVALUATE else None

    def path(self, folder: Path, name: str, kind: str) -> Path:
        path = folder / name.replace(".png", f"{kind}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, folder: Path, name: str, kind: str, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self.path(folder, name, kind))

    def save_heat_map(self, folder: Path, name: str, heat: np.ndarray) -> None:
        figure = plt.figure()
        plt.axis("off")
        figure.colorbar(plt.imshow(heat, cmap="viridis"))
        figure.savefig(self.path(folder, name, "_heatmap"))
        plt.close(figure)

    def train_ids(self, name: str) -> np.ndarray:
        ids = np.array(Image.open(self.data.label_path(name)))
        label = np.full(ids.shape, IGNORE, np.uint8)
        for number, train_id in CITYSCAPES_IDS.items():
            label[ids == number] = train_id
        return label


def compare(task: str, ways: dict[str, Ours | Baseline], network: nn.Module, args: Namespace) -> dict:
    """Both ways' figures for one task, printed too."""
    ours, count = ways[OURS], len(ways[OURS].data)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folders = {way: Path(name) / way for way in ways}
        work = {way: lambda way=way: ways[way].run(task, network, folders[way]) for way in ways}
        runs = take_turns(work, ours.device, args.repeats)
        matrices = [runs[way][-1].value for way in (OURS, BASELINE)]
        differing = check_same(ours.data, folders[OURS], matrices[0], folders[BASELINE], matrices[1])
        written = {
            way: sum(file.stat().st_size for file in folder.rglob("*.png")) / count / 1e6
            for way, folder in folders.items()
        }
    found = figures(runs) | {"differing_pixels": differing}
    print(f"\n{task}, around the network")
    rows = [("", "ms per image", "ms of CPU", "peak GB", "MB of files")]
    for way in ways:
        of_way = found[way]
        of_way |= {"ms_per_image": 1e3 * of_way["seconds"] / count, "written_mb": written[way]}
        cpu = 1e3 * of_way["cpu"] / count
        rows.append((way, of_way["ms_per_image"], cpu, of_way["peak_gb"], of_way["written_mb"]))
    print_table(*rows)
    turns = ", ".join(f"{ratio:.1f}" for ratio in found["ratios"])
    print(f"\nbaseline / ours: {found['ratio']:.1f} (turns {turns}), of CPU time {found['cpu_ratio']:.1f}")
    print(f"{differing} pixels differ", flush=True)
    return found


def with_network(ours: Ours, args: Namespace) -> dict:
    """Images per second of the scripts with a network, and of the network alone."""
    device = ours.device
    arch = "resnet101" if device.type == "cuda" else "mini"
    network = DeeplabMulti(CLASSES, use_se=True, norm_style="gn", arch=arch)
    network = network.to(device, memory_format=torch.channels_last).eval()
    batch = min(1 if device.type == "cpu" else args.batchsize, len(ours.data))
    zeros = [torch.zeros(batch, *size, 3, dtype=torch.uint8, device=device) for size in SCALES]
    shown, passes = [to_network_input(images) for images in zeros], len(ours.data) // batch

    @torch.inference_mode()
    def alone() -> None:
        for images in passes * shown:
            network(images)
            network(images.flip(3))

    alone()  # a GPU chooses its kernels the first time
    found, rows = {"arch": arch}, [("with the network", "images/s", "network alone", "share", "peak GB")]
    for task in TASKS:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            work = {"alone": alone, "whole": lambda t=task, f=folder: ours.run(t, network, Path(f))}
            runs = take_turns(work, device, args.repeats)
        limit, whole = (
            [images / run.seconds for run in runs[way]]
            for way, images in (("alone", passes * batch), ("whole", len(ours.data)))
        )
        share = median(w / a for w, a in zip(whole, limit, strict=True))
        peak = max(run.peak for run in runs["whole"]) / GB
        found[task] = dict(
            images_per_second=median(whole), network_alone=median(limit), share=share, peak_gb=peak
        )
        rows.append((task, *found[task].values()))
    print_table(*rows)
    return found


def check_same(data: SegmentationDataset, folder: Path, matrix: Tensor | None, other: Path, expected) -> int:
    """Number of pixels labelled differently; exit if there are more than rounding explains."""
    differing = 0
    for name in data.names:
        one, two = (np.asarray(Image.open(f / name)) for f in (folder, other))
        differing += int((one != two).sum())
        colors = (Image.open(f / name.replace(".png", "_color.png")) for f in (folder, other))
        one, two = (np.asarray(picture.convert("RGB")) for picture in colors)
        if (one != two).any(2).sum() > TIES * one.size:
            sys.exit(f"{name}: the colours differ")
    if differing > TIES * len(data) * SIZE[0] * SIZE[1]:
        sys.exit(f"{differing} pixels differ")
    if matrix is not None and (matrix - expected).abs().sum() > 2 * differing:
        sys.exit("the confusion matrices differ")
    return differing


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--images", type=int, default=12, help="pictures to predict")
    flags.add_argument("--repeats", type=int, default=3, help="turns of each way; figures are medians")
    flags.add_argument("--batchsize", type=int, default=4, help="images per pass of ours; a CPU takes one")
    flags.add_argument("--num-workers", type=int, help="decoding processes; default: by the cores")
    flags.add_argument("--network", action="store_true", help="also with a network: mini on a CPU")
    flags.add_argument("--cpu", action="store_true", help="compute on the CPU")
    flags.add_argument("--folder", help="parent of temporary folders (default: the system's)")
    args = flags.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    workers = default_workers(1) if args.num_workers is None else args.num_workers
    found = {"device": device_name(device), "workers": workers, "images": args.images}
    print(f"{found['device']}; {workers} workers; {args.images} pictures of {SIZE[1]}x{SIZE[0]}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        data = draw(Path(folder), args.images)
        ours = Ours(data, device, Namespace(batchsize=args.batchsize, num_workers=workers))
        ways = {OURS: ours, BASELINE: Baseline(data, device, workers)}
        network = Logits(device)
        for task in TASKS:
            found[task] = compare(task, ways, network, args)
        if args.network:
            found["network"] = with_network(ours, args)
    write_json(args.json, found)


if __name__ == "__main__":
    main()
