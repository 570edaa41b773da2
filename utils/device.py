"""The device a run computes on, the precision of the network there, and the number of decoding processes."""

import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from utils.distributed import SINGLE_PROCESS, Processes

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # autocast's dtype
BF16_CAPABILITY = (8, 0)  # Ampere; below it cuDNN has no convolution in bf16, and torch's own are far slower
MAX_WORKERS = 8  # per stream; more only compete for memory bandwidth
log = logging.getLogger(__name__)


def choose_device(args: Namespace, processes: Processes = SINGLE_PROCESS) -> tuple[torch.device, list[int]]:
    """The device of `--gpu-ids` and the GPUs among them that exist; warns about missing ones.

    Without CUDA it is Apple's GPU if there is one, else the CPU. Under torchrun each process takes the GPU of
    its local rank, whatever `--gpu-ids` names. A CUDA device becomes the current one.
    """
    if args.cpu:
        return torch.device("cpu"), []
    if processes.is_distributed and torch.cuda.is_available():
        return torch.device("cuda", processes.local_rank), [processes.local_rank]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        apple = torch.backends.mps.is_available() and not processes.is_distributed
        device = torch.device("mps" if apple else "cpu")
        log.warning("No CUDA GPU found: computing on %s.", "Apple's GPU" if apple else "the CPU, slowly")
        return device, []
    present = [number for number in args.gpu_ids if number < count]
    if len(present) < len(args.gpu_ids):
        present = present or [0]
        named, found = ",".join(map(str, args.gpu_ids)), ",".join(map(str, present))
        log.warning("--gpu-ids %s: this machine has %d GPU(s); computing on %s.", named, count, found)
    torch.cuda.set_device(present[0])  # pinned memory, for one, would otherwise open GPU 0
    return torch.device("cuda", present[0]), present


def has_bf16(gpus: Sequence[int | None]) -> bool:
    """Whether all these CUDA GPUs compute convolutions in bf16; None: the current one.

    `torch.cuda.is_bf16_supported` does not answer that: it also says yes where torch only emulates bf16.
    """
    return all(torch.cuda.get_device_capability(gpu) >= BF16_CAPABILITY for gpu in gpus)


def set_precision(
    precision: str,
    device: torch.device,
    *,
    gpus: Sequence[int] = (),
    processes: Processes = SINGLE_PROCESS,
    deterministic: bool = False,
    benchmark: bool = True,
) -> str:
    """Configure the device's arithmetic; the precision in effect.

    `tf32` is torch's default for convolutions, here for matrix products too; `fp32` rounds nothing. The two
    differ only on NVIDIA GPUs from Ampere on. `bf16` becomes `fp16` in all processes if one has a GPU that
    lacks it, and `fp16` becomes `fp32` without CUDA.

    Args:
        gpus: those computed on, if not the device alone.
        deterministic: select operations that repeat to the bit where torch has them, and warn about others.
        benchmark: search for the fastest convolutions, which pays where all batches have one shape; it may
            settle on other algorithms next time.
    """
    cuda = device.type == "cuda"
    if precision == "fp16" and not cuda:
        log.warning("--precision fp16 needs a CUDA GPU: computing in full precision.")
        precision = "fp32"
    if precision == "bf16" and cuda and processes.all_reduce_max(not has_bf16(gpus or [device.index])):
        log.warning("--precision bf16 needs GPUs of the RTX 30 generation (Ampere) or later: using fp16.")
        precision = "fp16"
    if cuda:
        tf32 = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = benchmark and not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
        torch.utils.deterministic.fill_uninitialized_memory = False  # for debugging; it writes every tensor
        torch.use_deterministic_algorithms(True, warn_only=True)
    return precision


class InPrecision(nn.Module):
    """A network called in one of `PRECISIONS`; its logits, and all that follows from them, stay in fp32.

    Autocast's dtype belongs to the thread, and DataParallel calls each replica in a thread of its own, so it
    is set inside the call and not around it.
    """

    def __init__(self, network: nn.Module | Callable, precision: str):
        super().__init__()
        self.network, self.dtype = network, PRECISIONS[precision]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the network's outputs, computed in the precision's dtype, in that of the images."""
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = self.network(images)
        return tuple(output.to(images.dtype) for output in outputs)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; from pinned memory to CUDA without waiting for the copy."""
    return tensor.to(device, non_blocking=device.type == "cuda")


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit torch to one CPU thread, for small operations: beside decoding processes several mostly spin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def count_workers(chosen: int | None, streams: int = 1) -> int:
    """Decoding processes per stream: the chosen number, else this machine's cores shared by its `streams`."""
    if chosen is not None:
        return chosen
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores // streams))
