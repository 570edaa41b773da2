"""What the benchmarks share: turns, clocks, memory, tables, and a meter that counts by arithmetic."""

import argparse
import json
import math
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from synthetic import layouts, make_image
from utils.metrics import format_table

OURS, BASELINE = "ours", "baseline"
GTA5_SIZE, CITYSCAPES_SIZE = (1914, 1052), (2048, 1024)  # width, height
GB = 1e9


def draw(root: Path, split: int, count: int) -> None:
    """Scenes with their labels in the layouts and sizes of GTA5 and Cityscapes."""
    layouts.PNG_COMPRESSION = 6  # as of published files
    _, write = layouts.BENCHMARKS["gta5"][split]
    for index in range(count):
        size = GTA5_SIZE if split == layouts.SOURCE else CITYSCAPES_SIZE
        write(root, index, *make_image(0, split, index, size))


class Run(NamedTuple):
    """One measured call: its value, seconds by the clock, peak bytes of GPU memory (nan on a CPU)."""

    value: object
    seconds: float
    peak: float


def measure(work: Callable[[], object], device: torch.device) -> Run:
    """Call `work` and wait for the device."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    value = work()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return Run(value, seconds, torch.cuda.max_memory_allocated(device) if on_gpu else float("nan"))


def take_turns(
    ways: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, list[Run]]:
    """Measure each way once per round, so that other load on the machine slows all of them."""
    runs = defaultdict(list)
    for _ in range(rounds):
        for way, work in ways.items():
            runs[way].append(measure(work, device))
    return runs


def figures(runs: Mapping[str, list[Run]]) -> dict:
    """Median seconds of both ways, and the median ratio of a round, which other load hardly affects."""
    found = {way: dict(seconds=median(run.seconds for run in of_way)) for way, of_way in runs.items()}
    pairs = zip(runs[BASELINE], runs[OURS], strict=True)
    found["ratios"] = [theirs.seconds / ours.seconds for theirs, ours in pairs]
    return found | {"ratio": median(found["ratios"])}


def device_name(device: torch.device) -> str:
    """The GPU, or the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}"


def print_table(*rows: tuple) -> None:
    """Print rows of text and numbers, below an empty line; the first row is the head."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    print(f"\n{format_table(cells, rules=(1,))}", flush=True)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark."""
    form = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=description, formatter_class=form)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return made


def write_json(path: Path | None, found: object) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


# FLOPs and memory by arithmetic. Fused SGD works in place, without memory, but cannot be faked by torch.
FUSED_SGD = "_fused_sgd_"
if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{FUSED_SGD}", "Meta"):
    _kernels = torch.library.Library("aten", "IMPL")
    _kernels.impl(FUSED_SGD, lambda *_, **__: None, "Meta")
# torch counts the attention of GPUs only.
_ATTENTION = "_scaled_dot_product_flash_attention"
for _end in ("", "_backward"):
    _counted = flop_registry[getattr(torch.ops.aten, _ATTENTION + _end)]
    flop_registry[getattr(torch.ops.aten, f"{_ATTENTION}_for_cpu{_end}")] = _counted
# What the time of a step is counted with, for an H100: 80 % of 700 TFLOP/s in bf16; in TF32, which only the
# discriminators use then, what convolutions of 19 to 64 channels reach; 85 % of 3.35 TB/s.
FLOP_RATES = {torch.bfloat16: 560e12, torch.float32: 60e12}
BANDWIDTH = 2.85e12
# Positions of the arguments that are read twice: for statistics and result, for both gradients.
READ_TWICE = {"native_batch_norm": (0,), "native_batch_norm_backward": (0, 1), "convolution_backward": (0,)}
# The share of the bytes that is left where compilation joins an operation on activations, in bf16, to the
# normalisation before it or (`threshold_backward`) behind it.
JOINED = {"relu_": 0, "add_": 1 / 3, "threshold_backward": 2 / 3}
OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_")  # write without reading


class Meter(TorchDispatchMode):
    """Counts operation by operation within its context; with `FakeTensorMode` nothing is computed.

    `flops`: a multiply-add is 2. `live` and `peak`: bytes of tensors made inside; kernels' work space,
    fragmentation and the CUDA context are not included. `moved`: bytes that all operations but convolutions
    and matrix products read and write. `seconds`: of an H100, each operation bound by its FLOPs or its bytes
    (`FLOP_RATES`, `BANDWIDTH`); `compiled_seconds`: with the operations of `JOINED` joined.
    """

    def __init__(self):
        super().__init__()
        self.live = 0
        self.start()
        self._seen = weakref.WeakSet()

    def start(self) -> None:
        """Reset the counts; live tensors stay."""
        self.flops = self.moved = self.seconds = self.compiled_seconds = 0
        self.peak = self.live

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = _tensors(result)
        if _computes(func):
            self._count(func, args, kwargs, result, _moved(func, args, kwargs, made))
        for storage in (leaf.untyped_storage() for leaf in made):
            if storage not in self._seen:
                self._seen.add(storage)
                self._resize(storage.nbytes())
                weakref.finalize(storage, self._resize, -storage.nbytes())
        return result

    def _count(
        self, func: torch._ops.OpOverload, args: tuple, kwargs: dict, result: object, moved: int
    ) -> None:
        seconds, share = moved / BANDWIDTH, 1.0
        dtype = next((leaf.dtype for leaf in _tensors(args)), None)
        if flops_of := flop_registry.get(func._overloadpacket):
            flops = flops_of(*args, **kwargs, out_val=result)
            self.flops += flops
            seconds = max(seconds, flops / FLOP_RATES.get(dtype, math.inf))
        else:
            self.moved += moved
            share = JOINED.get(func._overloadpacket.__name__, 1.0) if dtype == torch.bfloat16 else 1.0
        self.seconds += seconds
        self.compiled_seconds += share * seconds

    def _resize(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


def _computes(func: torch._ops.OpOverload) -> bool:
    """Whether an operation computes, instead of making a view or allocating."""
    if func.namespace != "aten" or func.__name__.startswith(("empty", "new_empty", "detach", "lift_fresh")):
        return False
    returned = [returns.alias_info for returns in func._schema.returns]
    return not any(alias and not alias.is_write for alias in returned)


def _moved(func: torch._ops.OpOverload, args: tuple, kwargs: dict, made: list[Tensor]) -> int:
    """Bytes that an operation reads and writes, according to its schema."""
    schema, moved = func._schema, 0
    for number, argument in enumerate(schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        read = not (written and func.__name__.partition(".")[0] in OVERWRITES)
        times = written + read + (number in READ_TWICE.get(func._overloadpacket.__name__, ()))
        moved += times * sum(map(_size, _tensors(value)))
    in_place = any(returned.alias_info for returned in schema.returns)
    return moved if in_place else moved + sum(map(_size, made))


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor; expanded dimensions count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
