"""The training steps of both stages against the plain way, in one run; see docs/performance.md.

    python benchmarks/step.py                                  # what this machine can do
    python benchmarks/step.py --precision bf16 --checkpointing
    python benchmarks/step.py --memory                         # memory and FLOPs by arithmetic, anywhere

On a CUDA GPU with the README's settings; on a CPU the same network at a smaller crop, which is printed. The
batches lie ready in the host's memory (pinned, uint8; for the plain way float): reading them is another
subject. Ours and the plain way take turns; times are medians.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import interpolate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import trainer_ms  # noqa: E402 - the repository's own, found through the line above
import trainer_ms_variance  # noqa: E402
from benchmarks.meter import Meter  # noqa: E402
from benchmarks.plain import PlainTrainer, float_batch  # noqa: E402
from engine.loop import load_batch  # noqa: E402
from model.deeplab_multi import ARCHS  # noqa: E402
from utils.device import PRECISIONS, set_precision  # noqa: E402
from utils.flag_types import format_size  # noqa: E402
from utils.losses import memory_regularization  # noqa: E402
from utils.options import stage1_args, stage2_args  # noqa: E402

COMMON = "--norm-style gn --use-se --class-balance --often-balance --only-hard-label 80 --max-value 7 "
COMMON += "--lambda-seg 0.5 "
STAGES = {  # the README's commands
    "stage1": "--batch-size 2 --crop-size 1024,512 --learning-rate 2e-4 --drop 0.1 --lambda-kl-target 0.1",
    "stage2": "--batch-size 9 --crop-size 512,256 --learning-rate 1e-4 --drop 0.2 --train_bn "
    "--lambda-adv-target1 0 --lambda-adv-target2 0 --input-size 1280,640",
}
CPU_CROPS = {"stage1": "128,64", "stage2": "64,32"}  # 1/64 of the pixels
AFTER_REG_START = 15000
GB, TERA = 1e9, 1e12
TOLERANCE = 1e-4  # of the first step's losses at full precision, relative
NEAR_0 = 1e-3  # a divergence of untrained classifiers is the difference of two equal numbers
OURS, PLAIN = "ours", "plain"


def stage_args(stage: str, options: Namespace, crop: str | None = None) -> Namespace:
    """The README's flags of a stage with the benchmark's own."""
    flags = f"{COMMON} {STAGES[stage]} --arch {options.arch} --precision {options.precision}".split()
    flags += ["--checkpointing"] * options.checkpointing + ["--compile"] * options.compile
    flags += ["--crop-size", crop] if crop else []
    return (stage1_args if stage == "stage1" else stage2_args)(flags)


def build(way: str, stage: str, args: Namespace) -> nn.Module | PlainTrainer:
    """A trainer on the CPU, with the same weights either way."""
    torch.manual_seed(0)
    if way == PLAIN:
        return PlainTrainer(args, stage == "stage2")
    module = trainer_ms if stage == "stage1" else trainer_ms_variance
    return module.AD_Trainer(args)


def make_batch(args: Namespace, seed: int, pinned: bool) -> dict:
    """uint8 images (N, H, W, 3) and labels in blocks, a twentieth of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    height, width = args.crop_size
    blocks = (args.batch_size, -(-height // 16), -(-width // 16))
    labels = torch.randint(0, args.num_classes, blocks, generator=generator, dtype=torch.uint8)
    labels[torch.rand(blocks, generator=generator) < 0.05] = args.ignore_label
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous()
    shape = (args.batch_size, height, width, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    batch = dict(image=images, label=labels)
    return {key: value.pin_memory() for key, value in batch.items()} if pinned else batch


def our_step(trainer: nn.Module, labelled: dict, target: dict, device: torch.device) -> dict[str, Tensor]:
    """What the engine does in an iteration without a line in the log."""
    trainer.adjust_learning_rates(AFTER_REG_START)
    (images, labels), (images_t, _) = load_batch(labelled, device), load_batch(target, device)
    losses, predictions = trainer.gen_update(images, images_t, labels, None, AFTER_REG_START)
    return losses | trainer.dis_update(*predictions)


def runner(
    way: str, stage: str, args: Namespace, device: torch.device, exact: bool = False
) -> Callable[[], dict]:
    """A function that does one step of one way, after setting the device's arithmetic for it.

    `exact`: full precision for the plain way too, which torch rounds to TensorFloat-32 if nobody objects.
    """
    batches = [make_batch(args, seed, pinned=device.type == "cuda") for seed in (1, 2)]
    if way == OURS:
        trainer = build(OURS, stage, args).to(device, memory_format=torch.channels_last)
        if args.compile:
            trainer.G.compile()

        def run() -> dict:
            set_precision(args.precision, device)
            return our_step(trainer, *batches, device)
    else:
        trainer = build(PLAIN, stage, args).to(device)
        batches = [float_batch(batch) for batch in batches]
        for group in (group for optimizer, _ in trainer.sgd for group in optimizer.param_groups):
            group["lr"] *= (1 - AFTER_REG_START / args.num_steps) ** args.power
        for optimizer in trainer.adam:
            optimizer.param_groups[0]["lr"] *= (1 - AFTER_REG_START / args.num_steps) ** args.power

        def run() -> dict:
            if exact:
                set_precision("fp32", device)
            elif device.type == "cuda":  # torch's defaults, and the search that everybody switches on
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
                torch.backends.cudnn.benchmark = True
            return trainer.step(*batches)

    return run


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Seconds a call, over `repeats` calls that the host does not wait between."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    wait(device)
    return (time.perf_counter() - start) / repeats


def matrix_rate(precision: str, device: torch.device) -> float:
    """FLOP a second of a large matrix product in the precision: the limit, measured beside the steps."""
    size = 8192 if device.type == "cuda" else 1024
    set_precision(precision, device)
    dtype = PRECISIONS[precision] or torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timed(lambda: a @ b, device, 3)
    return 2 * size**3 / min(timed(lambda: a @ b, device, 10) for _ in range(5))


def peak_memory(way: str, stage: str, args: Namespace, device: torch.device) -> float:
    """Peak bytes of the way alone: allocated on the GPU, or resident in a process of its own."""
    if device.type != "cuda":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_resident_peak, (way, stage, args))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run = runner(way, stage, args, device)
    for _ in range(2):
        run()
    peak = torch.cuda.max_memory_allocated(device)
    del run
    gc.collect()
    torch.cuda.empty_cache()
    return peak


def _resident_peak(way: str, stage: str, args: Namespace) -> float:
    runner(way, stage, args, torch.device("cpu"))()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB elsewhere


def same_losses(stage: str, args: Namespace, device: torch.device) -> float:
    """The largest relative difference of the first step's losses at full precision.

    Raises:
        SystemExit: it is above `TOLERANCE`.
    """
    args = Namespace(**vars(args) | dict(precision="fp32", compile=False))
    found = []
    for way in (PLAIN, OURS):
        run = runner(way, stage, args, device, exact=True)
        torch.manual_seed(1)  # of dropout
        found.append({name: float(loss) for name, loss in run().items()})
    expected, ours = found
    worst = max(abs(ours[name] - value) / max(abs(value), NEAR_0) for name, value in expected.items())
    if worst > TOLERANCE:
        raise SystemExit(f"{stage}: ours {ours} and the plain way's losses {expected} differ")
    return worst


def count(stage: str, args: Namespace, way: str = OURS) -> Meter:
    """FLOPs and peak bytes of a step by arithmetic; see `benchmarks.meter`."""
    meter = Meter()
    with FakeTensorMode(allow_non_fake_inputs=True), meter:
        trainer = build(way, stage, args)
        if PRECISIONS[args.precision] and way == OURS:
            _normalise_as_cuda(trainer.G)
        size = (args.batch_size, *args.crop_size)
        labels = torch.zeros(size, dtype=torch.int64)
        images = torch.empty(*size, 3).permute(0, 3, 1, 2)
        for _ in range(2):  # the second has all of the optimisers' states
            predictions = None
            meter.start()
            if way == OURS:
                _, predictions = trainer.gen_update(images, images, labels, None, AFTER_REG_START)
                trainer.dis_update(*predictions)
            else:
                both_batches(trainer, images, labels)
        meter.states = state_sizes(trainer, way)
    return meter


def both_batches(trainer: PlainTrainer, images: Tensor, labels: Tensor) -> None:
    """The part of the plain step that takes most memory, without the values it reads on the host."""
    (z1, z2), (z1_t, z2_t) = trainer.segment(images), trainer.segment(images)
    weight = trainer.often
    loss = sum(nn.functional.cross_entropy(z, labels, weight) for z in (z1, z2))
    if trainer.args.lambda_adv_target1 > 0:
        adversarial = ((trainer.D1, z1_t), (trainer.D2, z2_t))
        loss = loss + sum(D.gen_loss(z.softmax(1)) for D, z in adversarial)
    if trainer.args.lambda_kl_target > 0:
        memory = nn.functional.softmax(0.5 * z1_t + z2_t, 1).detach()
        for z in (z1_t, z2_t):
            divergence = nn.functional.kl_div(z.log_softmax(1), memory, reduction="none")
            loss = loss + divergence.sum(1).mean()
    loss.backward()
    for optimizer, _ in trainer.sgd:
        optimizer.step()
        optimizer.zero_grad()


def _normalise_as_cuda(network: nn.Module) -> None:
    """CUDA's autocast gives group normalisation full numbers, the CPU's, which counts here, does not."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: inputs[0].float())


def state_sizes(trainer: nn.Module | PlainTrainer, way: str) -> dict[str, int]:
    """Bytes of parameters, of gradients, of SGD's momentum and of Adam's two averages."""

    def size(parameters) -> int:
        return sum(p.numel() * p.element_size() for p in parameters)

    G, D = trainer.G, [*trainer.D1.parameters(), *trainer.D2.parameters()]  # noqa: N806
    trained = size(p for p in G.parameters() if p.requires_grad)
    adam = 2 * size(D) if trainer.args.lambda_adv_target1 > 0 else 0
    return dict(parameters=size(G.parameters()) + size(D), gradients=trained, momentum=trained, adam=adam)


def memory_table(options: Namespace) -> list[dict]:
    """Peak memory of both stages by arithmetic, in every way that matters; printed as it is found."""
    ways = [(PLAIN, "fp32", False)]
    ways += [(OURS, precision, checks) for precision in ("fp32", "bf16") for checks in (False, True)]
    rows = []
    for stage in STAGES:
        for way, precision, checkpointing in ways:
            chosen = Namespace(arch=options.arch, precision=precision, checkpointing=checkpointing)
            chosen.compile = False
            args = stage_args(stage, chosen)
            meter = count(stage, args, way)
            row = dict(stage=stage, way=way, precision=precision, checkpointing=checkpointing)
            row |= {f"{name}_gb": value / GB for name, value in meter.states.items()}
            row |= dict(peak_gb=meter.peak / GB, tflop=meter.flops / TERA)
            row |= dict(moved_gb=meter.moved / GB, operations=meter.operations)
            row["activations_gb"] = row["peak_gb"] - sum(meter.states.values()) / GB
            rows.append(row)
            states = "  ".join(f"{name} {value / GB:.2f}" for name, value in meter.states.items())
            print(
                f"{stage} {way:5} {precision}{' checkpointing' * checkpointing:14}  {states}  "
                f"the rest at the peak {row['activations_gb']:.2f}  peak {row['peak_gb']:.2f} GB"
                + (_work(row) if way == OURS else ""),
                flush=True,
            )
    return rows


def _work(row: dict) -> str:
    return (
        f"  {row['tflop']:.2f} TFLOP in convolutions, {row['moved_gb']:.0f} GB moved by the rest, "
        f"{row['operations']} operations"
    )


def measure(stage: str, options: Namespace, device: torch.device) -> dict:
    """One stage's figures; printed as they are found."""
    on_gpu = device.type == "cuda"
    crop = options.crop_size or (None if on_gpu else CPU_CROPS[stage])
    args = stage_args(stage, options, crop)
    size = f"batch {args.batch_size} + {args.batch_size}, crop {format_size(args.crop_size)}"
    print(f"\n{stage}: {args.arch}, {size}, {args.precision} on {device_name(device)}", flush=True)
    difference = same_losses(stage, args, device)
    print(f"  first losses at full precision: ours and the plain way within {difference:.1e}", flush=True)
    useful = Namespace(**vars(args) | dict(checkpointing=False, compile=False, precision="fp32"))
    flops = count(stage, useful).flops
    peaks, runs = {}, {}
    for way in (OURS, PLAIN):
        try:
            peaks[way] = peak_memory(way, stage, args, device)
        except torch.OutOfMemoryError:
            print(f"  {way}: does not fit into this GPU's memory", flush=True)
    for way in peaks:
        runs[way] = runner(way, stage, args, device)
        timed(runs[way], device, 5 if on_gpu else 1)  # searches, compiles, fills the caches
    seconds = {way: [] for way in runs}
    for _ in range(options.rounds):
        for way, run in runs.items():
            seconds[way].append(timed(run, device, 10 if on_gpu else 1))
    limit = matrix_rate(args.precision, device)
    row = dict(stage=stage, device=device_name(device), size=size, tflop=flops / TERA, limit=limit)
    row |= {key: getattr(args, key) for key in ("arch", "precision", "checkpointing", "compile")}
    for way, times in seconds.items():
        median = statistics.median(times)
        row[way] = dict(
            seconds=median,
            images_per_second=2 * args.batch_size / median,
            peak_gb=peaks[way] / GB,
            share=flops / median / limit,
        )
        print(
            f"  {way:5} {median:8.3f} s a step  {row[way]['images_per_second']:8.2f} images/s  "
            f"peak {row[way]['peak_gb']:6.2f} GB  {row[way]['share']:6.1%} of the matrix rate",
            flush=True,
        )
    print(f"  {flops / TERA:.3f} TFLOP a step; matrix product {limit / TERA:.3f} TFLOP/s", flush=True)
    if len(seconds) == 2:
        row["ratio"] = row[PLAIN]["seconds"] / row[OURS]["seconds"]
        print(f"  ours / plain: {row['ratio']:.2f} times the images a second", flush=True)
    row["losses"] = losses_alone(stage, options, device)
    return row


def losses_alone(stage: str, options: Namespace, device: torch.device) -> dict:
    """From the classifiers' logits to their gradients at the README's size, without network, discriminators.

    Upsampling, segmentation losses and, in Stage I, memory regularization, forward and backward.
    """
    args = stage_args(stage, Namespace(**vars(options) | dict(arch="mini", compile=False)))
    batch = make_batch(args, 3, pinned=False)
    labels = batch["label"].long().to(device)
    shape = (args.batch_size, args.num_classes, *(side // 8 for side in args.crop_size))
    generator = torch.Generator().manual_seed(0)
    small = [(3 * torch.randn(shape, generator=generator)).to(device).requires_grad_() for _ in range(4)]
    weight = torch.linspace(1, args.max_value, args.num_classes, device=device)
    ours, plain = (build(way, stage, args).to(device) for way in (OURS, PLAIN))
    ours.class_weight = weight

    def full_size(logits: list[Tensor]) -> list[Tensor]:
        return [interpolate(z, args.crop_size, mode="bilinear", align_corners=True) for z in logits]

    def our_way() -> None:
        losses = ours._segmentation_losses(*full_size(small[:2]), labels)
        (losses["seg2"] + args.lambda_seg * losses["seg1"]).backward()
        if args.lambda_kl_target > 0:
            (args.lambda_kl_target * memory_regularization(*full_size(small[2:]))).backward()

    def plain_way() -> None:
        z1, z2 = full_size(small[:2])
        if plain.rectified:
            seg1 = plain.rectified_loss(z1, z2, labels, weight)
            seg2 = plain.rectified_loss(z2, z1, labels, weight)
        else:
            seg1, seg2 = (plain.hard_loss(z, labels, weight) for z in (z1, z2))
        total = seg2 + args.lambda_seg * seg1
        if args.lambda_kl_target > 0:
            total = total + args.lambda_kl_target * plain.memory_loss(*full_size(small[2:]))
        total.backward()

    row, gradients, seconds = dict(stage=stage), {}, {OURS: [], PLAIN: []}
    ways = {OURS: our_way, PLAIN: plain_way}
    for way, run in ways.items():
        with Meter() as meter:
            run()
        row[way] = dict(peak_gb=meter.peak / GB)
        gradients[way] = [z.grad.clone() for z in small if z.grad is not None]
        for z in small:
            z.grad = None
    for a, b in zip(*gradients.values(), strict=True):
        if (a - b).abs().max() > TOLERANCE * b.abs().max():
            raise SystemExit(f"{stage}: the gradients of both ways' losses differ")
    for _ in range(options.rounds):
        for way, run in ways.items():
            seconds[way].append(timed(run, device, 10 if device.type == "cuda" else 1))
    for way, times in seconds.items():
        row[way]["seconds"] = statistics.median(times)
    row["ratio"] = row[PLAIN]["seconds"] / row[OURS]["seconds"]
    size = f"batch {args.batch_size}, {format_size(args.crop_size)}"
    print(f"  losses alone, {size}, with upsampling, forward and backward:", flush=True)
    for way in (OURS, PLAIN):
        print(f"    {way:5} {row[way]['seconds']:8.3f} s  {row[way]['peak_gb']:6.2f} GB", flush=True)
    print(f"    plain / ours: {row['ratio']:.2f}", flush=True)
    return row


def device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    add("--precision", choices=PRECISIONS, help="default: bf16 on a GPU, fp32 on a CPU")
    add("--checkpointing", action="store_true")
    add("--compile", action="store_true")
    add("--arch", choices=ARCHS, default="resnet101")
    add("--crop-size", help="width,height instead of the README's, or the CPU's")
    add("--rounds", type=int, help="turns of each way; default: 5 on a GPU, 3 on a CPU")
    add("--memory", action="store_true", help="memory and FLOPs by arithmetic instead of measuring")
    add("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.precision = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    options.rounds = options.rounds or (5 if device.type == "cuda" else 3)
    if options.memory:
        rows = memory_table(options)
    else:
        rows = [measure(stage, options, device) for stage in options.stages]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
