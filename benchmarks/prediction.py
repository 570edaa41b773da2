"""What prediction costs around the network, against the same work done the plain way, in one run.

    python benchmarks/prediction.py                       # network replaced by logits computed before
    python benchmarks/prediction.py --network             # and with it: images/s, share of the network alone
    python benchmarks/prediction.py --images 32 --json prediction.json

On a CPU with OMP_NUM_THREADS=1 where other work shares the cores.

Pseudo labels and evaluation of drawn pictures of 2048x1024, predicted at 1024x512 and 1280x640 as published.
The plain way is what a competent first version does, image by image: see `PlainWay`. Both must write the
same labels and count the same confusion matrix. They take turns; figures are medians.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import evaluate_cityscapes
from dataset import PredictionDataset, SegmentationDataset, build_dataset
from dataset.cityscapes import CITYSCAPES_COLORS, CITYSCAPES_IDS
from dataset.images import decode_image
from dataset.labels import IGNORE, palette
from dataset.png import compress
from engine.evaluation import PixelCounts
from engine.restore import prediction_batches
from model.deeplab_multi import DeeplabMulti
from synthetic import make_image
from synthetic.layouts import VAL
from utils.argmax import upsample
from utils.device import default_workers
from utils.distributed import SINGLE_PROCESS
from utils.inference import label_and_score, predict_all, scaled_sizes
from utils.pictures import PredictionWriter, heat_levels
from utils.preprocess import MEAN_BGR, to_network_input
from utils.uncertainty import UncertaintyGap

try:
    import matplotlib
except ImportError:
    sys.exit(
        "benchmarks/prediction.py: the plain way draws with Matplotlib: pip install -r requirements-dev.txt"
    )
matplotlib.use("Agg")
import matplotlib.pyplot as plt

CLASSES = len(CITYSCAPES_COLORS)
SIZE = (1024, 2048)  # height, width of the pictures
SCALES = scaled_sizes((512, 1024), (1, 1.25))
DRAWN = (480, 240)  # width, height at which scenes are drawn before they are enlarged
GRAIN = 1.0  # of a sensor: it gives the pictures the 2.4 MB of Cityscapes' own
TIES = 1e-5  # share of the pixels whose label may hang on rounding
GENERATE, EVALUATE = "pseudo labels", "evaluation"


def main() -> None:
    args = parse_args()
    cuda = torch.cuda.is_available() and not args.cpu
    device = torch.device("cuda" if cuda else "cpu")
    workers = default_workers(1) if args.num_workers is None else args.num_workers
    flags = Namespace(batchsize=args.batchsize, num_workers=workers)
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    result = {"device": name, "workers": workers, "images": args.images, "batchsize": args.batchsize}
    print(f"{name}; {workers} workers; {args.images} pictures of {SIZE[1]}x{SIZE[0]}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        data = draw(Path(folder), args.images)
        plain, ours = PlainWay(data, device, workers), OurWay(data, device, flags)
        logits = Logits(device)
        for task in (GENERATE, EVALUATE):
            result[task] = compare(task, ours, plain, logits, args)
        if args.network:
            result["network"] = with_network(ours, device, args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="pictures to predict")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each way; figures are medians")
    parser.add_argument("--batchsize", type=int, default=4, help="images a pass of ours; a CPU takes one")
    parser.add_argument(
        "--num-workers", type=int, help="decoding processes of each way (default: by the cores)"
    )
    parser.add_argument(
        "--network", action="store_true", help="also with the network: mini on a CPU, ResNet-101"
    )
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU")
    parser.add_argument("--folder", help="where temporary files go (default: the system's place)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def draw(root: Path, count: int) -> SegmentationDataset:
    """Pictures and labels in Cityscapes' layout that compress as photographs do."""
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
    """In place of the network: logits of its shapes, computed before; the mirror's differ a little."""

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


class OurWay:
    """What the scripts do."""

    title = "ours"

    def __init__(self, data: SegmentationDataset, device: torch.device, flags: Namespace):
        self.data, self.device, self.flags = data, device, flags

    def run(self, task: str, network: nn.Module, folder: Path) -> Tensor | None:
        """Predict all and write to `folder`; of an evaluation the confusion matrix."""
        if task == EVALUATE:
            return self.evaluate(network, folder)
        images = PredictionDataset(self.data, SCALES, labels=False)
        batches = prediction_batches(images, self.flags, self.device, SINGLE_PROCESS)
        with PredictionWriter(folder, palette(self.data.colors), scores=False) as writer:
            for name, _, (prediction,) in predict_all(network, batches, self.device, [(0.5, 1.0)]):
                writer.write(name, prediction)
        return None

    def evaluate(self, network: nn.Module, folder: Path) -> Tensor:
        options = dict(uncertainty="kl", mc_passes=1, mc_droprate=None, random_seed=0)
        flags = dict(input_size=SCALES[0], scales=[1, 1.25], weights={"1:0.5": (0.5, 1.0)})
        args = Namespace(**vars(self.flags), **options, **flags)
        evaluate_cityscapes.restore_network = lambda *_: network
        tally = PixelCounts(len(self.data), list(flags["weights"]), CLASSES, self.device)
        gap = UncertaintyGap(CLASSES)
        scored = evaluate_cityscapes.predictions_of_network(
            self.data, args, folder, gap, SINGLE_PROCESS, self.device
        )
        for index, image in enumerate(scored):
            tally.add(index, *image)
        tally.gather(SINGLE_PROCESS)
        gap.value()
        return tally.matrices[0, :, :CLASSES]

    def parts(self, task: str, network: nn.Module) -> dict[str, float]:
        """Milliseconds of each part for one image, alone; in use they run beside one another."""
        clock, item = Clock(self.device), None
        dataset = PredictionDataset(self.data, SCALES, labels=task == EVALUATE)
        for _ in range(3):
            with clock("read, resize (workers)"):
                item = dataset[0]
            with clock("  of it decoding"):
                decode_image(self.data.image_path(item["name"]))
            with clock("to the device, floats"):
                images = [to_network_input(scale[None].to(self.device)) for scale in item["images"]]
                _ = [batch.flip(3) for batch in images]
            maps = [(z[0] + z[1]).softmax(1) for z in (network(batch) for batch in images for _ in range(2))][
                ::2
            ]
            with clock("upsample, argmax"):
                label, score = label_and_score(maps, SIZE)
            with clock("heat map"):
                divergence = upsample(maps[0][:, :1], SIZE)[0, 0]
                heat = heat_levels(divergence)
            with clock("compress (threads)"):
                _ = [compress(pixels.cpu().numpy()) for pixels in (label, heat)]
            if task == EVALUATE:
                with clock("confusion matrix, gap"):
                    truth = item["label"].to(self.device)
                    PixelCounts(1, [""], CLASSES, self.device).add(0, truth, [label], divergence)
                    UncertaintyGap(CLASSES).add(truth, label, divergence)
                with clock("compress score (threads)"):
                    compress((255 * score / 4).round_().to(torch.uint8).cpu().numpy())
        return clock.medians()


class Clock:
    """Milliseconds by part."""

    def __init__(self, device: torch.device):
        self.device, self.spent = device, defaultdict(list)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.spent[part].append(1e3 * (time.perf_counter() - start))

    def medians(self) -> dict[str, float]:
        return {part: statistics.median(spent) for part, spent in self.spent.items()}


class PlainImages(Dataset):
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


class PlainWay:
    """A loader each scale, which reads the file again; each of the four passes upsampled alone, fetched as
    floats and summed in NumPy; argmax and maximum over the whole array; label ids in a loop; heat maps by
    Matplotlib; files saved one after another, as Pillow does by default.
    """

    title = "plain"

    def __init__(self, data: SegmentationDataset, device: torch.device, workers: int):
        self.data, self.device, self.workers = data, device, workers
        self.palette = palette(data.colors).ravel().tolist()

    @torch.no_grad()
    def run(self, task: str, network: nn.Module, folder: Path) -> Tensor | None:
        """As `OurWay.run`."""
        self.clock = clock = Clock(self.device)
        share = (self.workers + 1) // 2  # of the workers, to each of the loaders
        loaders = [DataLoader(PlainImages(self.data, size), num_workers=share) for size in SCALES]
        counts = np.zeros((CLASSES, CLASSES), np.int64)
        stream = zip(*loaders, strict=True)
        while True:
            with clock("wait for the loaders"):
                scales = next(stream, None)
            if scales is None:
                return torch.from_numpy(counts) if task == EVALUATE else None
            name = scales[0][1][0]
            total, pairs = 0, []
            for images, _ in scales:
                with clock("to the device"):
                    images = images.to(self.device)
                for mirrored in (False, True):
                    z1, z2 = network(images.flip(3) if mirrored else images)
                    with clock("upsample"):
                        shown = upsample((0.5 * z1 + z2).softmax(1), SIZE)
                        shown = shown.flip(3) if mirrored else shown
                    with clock("fetch, sum"):
                        total = total + shown.cpu().numpy()
                    pairs.append((z1.flip(3), z2.flip(3)) if mirrored else (z1, z2))
            with clock("argmax, maximum"):
                total = total.transpose(0, 2, 3, 1)[0]
                label = np.asarray(np.argmax(total, axis=2), np.uint8)
                score = np.max(total, axis=2) / 4
            with clock("heat map"):
                z1, z2 = pairs[0]
                if task == EVALUATE:
                    z1, z2 = z1 + pairs[1][0], z2 + pairs[1][1]
                p2, log_p1, log_p2 = z2.softmax(1), z1.log_softmax(1), z2.log_softmax(1)
                divergence = upsample((p2 * (log_p2 - log_p1)).sum(1, keepdim=True), SIZE)[0, 0]
                self.save_heat_map(folder, name, np.log(1 + 10 * divergence.cpu().numpy()))
            with clock("save"):
                self.save(folder, name, "", label)
                color = Image.fromarray(label).convert("P")
                color.putpalette(self.palette)
                color.save(self.path(folder, name, "_color"))
                if task == EVALUATE:
                    self.save(folder, name, "_score", (255 * score).round().astype(np.uint8))
            if task == EVALUATE:
                with clock("read the label"):
                    truth = self.train_ids(name)
                with clock("confusion matrix"):
                    known = truth != IGNORE
                    cells = CLASSES * truth[known].astype(int) + label[known]
                    counts += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def parts(self, task: str, network: nn.Module) -> dict[str, float]:
        """Milliseconds of each part for one image in the last run, one after another."""
        count = len(self.data)
        return {part: sum(spent) / count for part, spent in self.clock.spent.items()}

    def path(self, folder: Path, name: str, kind: str) -> Path:
        path = folder / name.replace(".png", f"{kind}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, folder: Path, name: str, kind: str, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self.path(folder, name, kind))

    def save_heat_map(self, folder: Path, name: str, heat: np.ndarray) -> None:
        figure = plt.figure()
        plt.axis("off")
        shown = plt.imshow(heat, cmap="viridis")
        figure.colorbar(shown)
        figure.savefig(self.path(folder, name, "_heatmap"))
        plt.close(figure)

    def train_ids(self, name: str) -> np.ndarray:
        ids = np.array(Image.open(self.data.label_path(name)))
        label = np.full(ids.shape, IGNORE, np.uint8)
        for number, train_id in CITYSCAPES_IDS.items():
            label[ids == number] = train_id
        return label


Way = OurWay | PlainWay


def compare(task: str, ours: OurWay, plain: PlainWay, logits: Logits, args: argparse.Namespace) -> dict:
    """Both ways in turns: milliseconds an image, parts, ratio and memory, printed too."""
    seconds, cpu, memory, ratios = defaultdict(list), defaultdict(list), {}, []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = {}
        for _ in range(args.repeats):
            for way in (ours, plain):
                place = Path(folder) / way.title
                run = measure(lambda w=way, p=place: w.run(task, logits, p), ours.device)
                seconds[way.title].append(run["seconds"] / len(ours.data))
                cpu[way.title].append(run["cpu"] / len(ours.data))
                memory[way.title], found[way.title] = run["memory"], (place, run["value"])
            ratios.append(seconds["plain"][-1] / seconds["ours"][-1])
        differing = check_same(ours.data, *found["ours"], *found["plain"])
        sizes = {way: folder_bytes(place) / len(ours.data) / 1e6 for way, (place, _) in found.items()}
    result = {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(cpu["plain"]) / statistics.median(cpu["ours"]),
        "differing_pixels": differing,
        "ms_an_image": {way: 1e3 * statistics.median(values) for way, values in seconds.items()},
        "cpu_ms_an_image": {way: 1e3 * statistics.median(values) for way, values in cpu.items()},
        "peak_memory_MB": memory,
        "written_MB_an_image": sizes,
        "parts_ms": {way.title: way.parts(task, logits) for way in (ours, plain)},
    }
    print(f"\n{task}, around the network, ms an image")
    for way in (plain, ours):
        title = way.title
        spent, busy = (result[key][title] for key in ("ms_an_image", "cpu_ms_an_image"))
        print(f"  {title}: {spent:.0f}, {busy:.0f} of a CPU's time")
        print(f"    peak {show(memory[title])}; files of {sizes[title]:.2f} MB")
        for part, spent in result["parts_ms"][title].items():
            print(f"    {part:<26} {spent:7.1f}")
    turns = ", ".join(f"{r:.1f}" for r in ratios)
    print(
        f"  plain / ours: {result['ratio']:.1f} (turns {turns}), by the CPU's time {result['cpu_ratio']:.1f}"
    )
    print(f"  {differing} pixels differ")
    return result


def with_network(ours: OurWay, device: torch.device, args: argparse.Namespace) -> dict:
    """Images a second of the scripts with a network, and of the network alone."""
    arch = "resnet101" if device.type == "cuda" else "mini"
    network = DeeplabMulti(CLASSES, use_se=True, norm_style="gn", arch=arch)
    network = network.to(device, memory_format=torch.channels_last).eval()
    batch = min(1 if device.type == "cpu" else args.batchsize, len(ours.data))
    shown = [
        to_network_input(torch.zeros(batch, *size, 3, dtype=torch.uint8, device=device)) for size in SCALES
    ]

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(len(ours.data) // batch):
            for images in shown:
                network(images)
                network(images.flip(3))

    result = {"arch": arch}
    images = len(ours.data) // batch * batch
    alone()  # a GPU chooses its kernels the first time
    for task in (GENERATE, EVALUATE):
        rates, shares = defaultdict(list), []
        for _ in range(args.repeats):
            rates["alone"].append(images / measure(alone, device)["seconds"])
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                run = measure(lambda t=task, f=folder: ours.run(t, network, Path(f)), device)
            rates["whole"].append(len(ours.data) / run["seconds"])
            shares.append(rates["whole"][-1] / rates["alone"][-1])
        whole, limit = (statistics.median(rates[kind]) for kind in ("whole", "alone"))
        share = statistics.median(shares)
        result[task] = dict(
            images_a_second=whole, network_alone=limit, share=share, peak_memory_MB=run["memory"]
        )
        print(
            f"\n{task} with {arch}: {whole:.2f} images/s, the network alone {limit:.2f}: {100 * share:.0f} %"
        )
        print(f"  peak {show(run['memory'])}")
    return result


def measure(work: Callable, device: torch.device) -> dict:
    """Value, seconds and peak memory of `work`."""
    reset_peak(device)
    synchronize(device)
    busy, start = cpu_seconds(), time.perf_counter()
    value = work()
    synchronize(device)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu": cpu_seconds() - busy, "value": value, "memory": peak(device)}


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    return sum(os.times()[:4])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # no Linux: no peak either
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> dict[str, float]:
    """Megabytes of this process (its workers not counted) and of the GPU at their highest since the reset."""
    memory = {}
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        memory["host"] = next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return memory


def show(memory: dict[str, float]) -> str:
    return ", ".join(f"{kind} {amount:.0f} MB" for kind, amount in memory.items()) or "unknown"


def check_same(data: SegmentationDataset, folder: Path, matrix: Tensor | None, other: Path, expected) -> int:
    """How many pixels both ways labelled differently, which rounding alone may; stops at more."""
    differing = 0
    for name in data.names:
        one, two = (np.asarray(Image.open(f / name)) for f in (folder, other))
        differing += int((one != two).sum())
        colors = (Image.open(f / name.replace(".png", "_color.png")) for f in (folder, other))
        one, two = (np.asarray(picture.convert("RGB")) for picture in colors)
        if (one != two).any(2).sum() > TIES * one.size:
            sys.exit(f"{name}: the two ways show it in different colours")
    if differing > TIES * len(data) * SIZE[0] * SIZE[1]:
        sys.exit(f"the two ways differ in {differing} pixels")
    if matrix is not None and (matrix - expected).abs().sum() > 2 * differing:
        sys.exit("the two ways count different confusion matrices")
    return differing


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.png"))


if __name__ == "__main__":
    main()
