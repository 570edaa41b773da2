"""The training steps of both stages against a baseline, in one run; see docs/performance.md.

    python benchmarks/step.py                                  # bf16 on a GPU, fp32 on a CPU
    python benchmarks/step.py --precision bf16 --checkpointing
    python benchmarks/step.py --memory                         # memory and FLOPs by arithmetic, anywhere
    python benchmarks/step.py --arch timm/pvt_v2_b2            # the same of Stage I with another backbone

On a CUDA GPU with the README's settings, on a CPU with the same network at a smaller crop, which is printed.
Batches are ready in (pinned) memory, since reading them is measured by data_path.py. Ours and the baseline
take turns; times are medians.
"""

import copy
import sys
from argparse import Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.script import run_script

import trainer_ms
import trainer_ms_variance
from benchmarks import harness
from benchmarks.baseline import BaselineTrainer, float_batch
from benchmarks.harness import BASELINE, GB, OURS, Meter
from experiments.recipes import ADVERSARIAL, PUBLISHED_STAGE1, PUBLISHED_STAGE2
from utils.device import PRECISIONS, set_precision, to_device
from utils.flag_types import format_size
from utils.memory import out_of_memory_advice
from utils.options import stage1_args, stage2_args
from utils.preprocess import to_network_input

STAGES = {
    "stage1": f"{PUBLISHED_STAGE1} {ADVERSARIAL} --lambda-kl-target 0.1",
    "stage2": f"{PUBLISHED_STAGE2} --input-size 1280,640",
}
CPU_CROPS = {"stage1": "128,64", "stage2": "64,32"}  # 1/64 of the pixels
AFTER_REG_START = 15000
TERA = 1e12


def stage_args(
    stage: str, precision: str, checkpointing: bool, arch: str = "resnet101", crop: str | None = None
) -> Namespace:
    """The README's flags of a stage, at the `crop` width,height if given."""
    flags = f"{STAGES[stage]} --arch {arch} --precision {precision}".split()
    flags += ["--checkpointing"] * checkpointing + (["--crop-size", crop] if crop else [])
    return (stage1_args if stage == "stage1" else stage2_args)(flags)


def build(way: str, stage: str, args: Namespace) -> nn.Module:
    """A trainer on the CPU, with the same weights for both ways."""
    torch.manual_seed(0)
    if way == BASELINE:
        return BaselineTrainer(args, rectified=stage == "stage2")
    return (trainer_ms if stage == "stage1" else trainer_ms_variance).AD_Trainer(args)


def make_batch(args: Namespace, seed: int, pinned: bool) -> dict:
    """Random uint8 images (N, H, W, 3) and labels (N, H, W), one in twenty of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    size = (args.batch_size, *args.crop_size)
    images = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, args.num_classes, size, generator=generator, dtype=torch.uint8)
    labels[torch.rand(size, generator=generator) < 0.05] = args.ignore_label
    batch = dict(image=images, label=labels)
    return {key: value.pin_memory() for key, value in batch.items()} if pinned else batch


def our_step(trainer: nn.Module, batches: list[dict], device: torch.device) -> dict[str, Tensor]:
    """An iteration of engine/loop.py, without logging."""
    trainer.adjust_learning_rates(AFTER_REG_START)
    images, images_t = (to_network_input(to_device(batch["image"], device)) for batch in batches)
    labels = to_device(batches[0]["label"], device).long()
    losses, predictions = trainer.gen_update(images, images_t, labels, None, AFTER_REG_START)
    return losses | trainer.dis_update(*predictions)


def runner(
    way: str, stage: str, args: Namespace, device: torch.device, compiled: bool = False
) -> Callable[[], dict]:
    """A function that runs one step, after setting the device's arithmetic for it.

    The baseline uses TensorFloat-32, torch's default for convolutions, unless ours is in full precision.
    """
    precision = args.precision if way == OURS or args.precision == "fp32" else "tf32"
    batches = [make_batch(args, seed, pinned=device.type == "cuda") for seed in (1, 2)]
    trainer = build(way, stage, args).to(device)
    if way == BASELINE:
        batches = [float_batch(batch) for batch in batches]
    else:
        trainer.to(memory_format=torch.channels_last)
        if compiled:
            trainer.compile()

    def run() -> dict:
        set_precision(precision, device)
        return our_step(trainer, batches, device) if way == OURS else trainer.step(*batches)

    return run


def matrix_rate(precision: str, device: torch.device) -> float:
    """FLOP/s of a large matrix product in the precision, the limit that the steps are compared with."""
    size, repeats = (8192, 10) if device.type == "cuda" else (1024, 2)
    set_precision(precision, device)
    dtype = PRECISIONS[precision] or torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    runs = [harness.measure(lambda: [a @ b for _ in range(repeats)], device) for _ in range(6)]
    return 2 * size**3 * repeats / min(run.seconds for run in runs[1:])


def count(stage: str, args: Namespace) -> Meter:
    """FLOPs and peak bytes of a step by arithmetic; `parameters`: number of those of the network."""
    meter, real = Meter(), build(OURS, stage, args)  # timm's constructors cannot make fake tensors
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, meter:
        with FakeCopyMode(fake):
            trainer = copy.deepcopy(real)
        if PRECISIONS[args.precision]:
            _normalise_as_cuda(trainer.G)
        size = (args.batch_size, *args.crop_size)
        labels = torch.zeros(size, dtype=torch.int64)
        images = torch.empty(*size, 3).permute(0, 3, 1, 2)
        for _ in range(2):  # only in the second do all optimiser states exist
            predictions = None
            meter.start()
            _, predictions = trainer.gen_update(images, images, labels, None, AFTER_REG_START)
            trainer.dis_update(*predictions)
    meter.parameters = sum(p.numel() for p in trainer.G.parameters())
    return meter


def _normalise_as_cuda(network: nn.Module) -> None:
    """CUDA's autocast normalises groups and layers in fp32; the CPU's, which is counted here, does not."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: inputs[0].float())


def memory_table() -> list[dict]:
    """Peak memory of both stages by arithmetic, with every relevant setting; printed as a table."""
    rows = []
    for stage, precision, checkpointing in product(STAGES, ("fp32", "bf16"), (False, True)):
        meter = count(stage, stage_args(stage, precision, checkpointing))
        row = dict(stage=stage, precision=precision, checkpointing=checkpointing)
        row |= dict(peak_gb=meter.peak / GB, tflop=meter.flops / TERA, moved_gb=meter.moved / GB)
        times = dict(ms=1e3 * meter.seconds, compiled_ms=1e3 * meter.compiled_seconds)
        row |= times if precision == "bf16" else dict.fromkeys(times, "")  # the rates are those of bf16
        rows.append(row)
    harness.print_table(tuple(rows[0]), *(tuple(row.values()) for row in rows))
    return rows


def cost(arch: str, precision: str, crop: str | None, rounds: int) -> dict[str, float]:
    """What Stage I's step costs with a network, by arithmetic; its median time of some rounds, if any."""
    args = stage_args("stage1", precision, checkpointing=False, arch=arch, crop=crop)
    meter = count("stage1", args)
    found = dict(parameters=meter.parameters / 1e6, tflop=meter.flops / TERA, peak_gb=meter.peak / GB)
    if rounds:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        run = runner(OURS, "stage1", args, device)
        run()  # kernel search, optimiser states
        runs = harness.take_turns({OURS: run}, device, rounds)[OURS]
        found["ms"] = 1000 * median(run.seconds for run in runs)
    harness.print_table(("", *found), (arch, *found.values()))
    return found


def compare_steps(
    stage: str, args: Namespace, device: torch.device, rounds: int, compiled: bool = False
) -> dict:
    """Both ways' figures of one stage, printed as they are found."""
    size = f"batch {args.batch_size} + {args.batch_size}, crop {format_size(args.crop_size)}"
    print(f"\n{stage}: {args.arch}, {size}, {args.precision} on {harness.device_name(device)}", flush=True)
    counted = Namespace(**vars(args) | dict(checkpointing=False, precision="fp32"))
    flops = count(stage, counted).flops
    steps = 10 if device.type == "cuda" else 1  # per turn, without waiting for the device in between
    peaks, turns = {}, {}
    for way in (OURS, BASELINE):
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        run = runner(way, stage, args, device, compiled=compiled)
        run()  # kernel search, compilation, optimiser states
        peaks[way] = harness.measure(run, device).peak - before
        turns[way] = lambda run=run: [run() for _ in range(steps)]
    found = harness.figures(harness.take_turns(turns, device, rounds))
    limit = matrix_rate(args.precision, device)
    for way in (OURS, BASELINE):
        seconds = found[way]["seconds"] / steps
        rate = 2 * args.batch_size / seconds
        share = flops / seconds / limit
        found[way] = dict(seconds=seconds, images_per_second=rate, share=share, peak_gb=peaks[way] / GB)
    head = ("", "s per step", "images/s", "of the matrix rate", "GPU GB")
    harness.print_table(head, *((way, *found[way].values()) for way in (OURS, BASELINE)))
    print(f"{flops / TERA:.3f} TFLOP per step; matrix product {limit / TERA:.3f} TFLOP/s")
    print(f"baseline / ours: {found['ratio']:.2f}", flush=True)
    found |= dict(stage=stage, device=harness.device_name(device), size=size, tflop=flops / TERA, limit=limit)
    return found | dict(precision=args.precision, checkpointing=args.checkpointing, compile=compiled)


@out_of_memory_advice("the baseline needs about 20 GB; give --memory on a smaller card")
def main() -> None:
    flags = harness.parser(__doc__)
    flags.add_argument("--precision", choices=PRECISIONS, help="default: bf16 on a GPU, fp32 on a CPU")
    flags.add_argument("--checkpointing", action="store_true")
    flags.add_argument("--compile", action="store_true")
    flags.add_argument("--memory", action="store_true", help="memory and FLOPs by arithmetic")
    flags.add_argument("--arch", help="those of Stage I with this network")
    flags.add_argument("--crop", metavar="W,H", help="its crop (default: the README's)")
    flags.add_argument("--rounds", type=int, default=0, help="steps to time with it (default: none)")
    options = flags.parse_args()
    on_gpu = torch.cuda.is_available()
    if options.memory:
        found = memory_table()
    elif options.arch:
        found = dict(cost=cost(options.arch, options.precision or "bf16", options.crop, options.rounds))
    else:
        found = []
        for stage in STAGES:
            precision = options.precision or ("bf16" if on_gpu else "fp32")
            crop = None if on_gpu else CPU_CROPS[stage]
            args = stage_args(stage, precision, options.checkpointing, crop=crop)
            device, rounds = torch.device("cuda" if on_gpu else "cpu"), 5 if on_gpu else 3
            found.append(compare_steps(stage, args, device, rounds, options.compile))
    harness.write_json(options.json, found)


if __name__ == "__main__":
    run_script(main)
