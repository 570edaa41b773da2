"""Which device a run computes on, and how many processes decode for it."""

import logging
import os
from argparse import Namespace

import torch
from torch import Tensor

from utils.distributed import SINGLE_PROCESS, Processes

MAX_WORKERS = 8  # a stream; more only compete for memory bandwidth
log = logging.getLogger(__name__)


def choose_device(args: Namespace, processes: Processes = SINGLE_PROCESS) -> tuple[torch.device, list[int]]:
    """The device of `--gpu-ids`, or the CPU, and those of the named GPUs that exist; says what is missing.

    Without CUDA it is Apple's GPU where torch has it. Among several processes each has the GPU of its number
    on its machine, whatever `--gpu-ids` says. A CUDA device becomes the current one.
    """
    if args.cpu:
        return torch.device("cpu"), []
    if processes.is_distributed and torch.cuda.is_available():
        return torch.device("cuda", processes.local_rank), [processes.local_rank]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and torch.backends.mps.is_available() and not processes.is_distributed:
        log.warning(
            "No CUDA GPU here: computing on Apple's GPU, faster than its CPU and far slower than a data "
            "centre's GPU; --cpu if an operation is missing there."
        )
        return torch.device("mps"), []
    if count == 0:
        log.warning("No CUDA GPU here: computing on the CPU, which is slow.")
        return torch.device("cpu"), []
    present = [number for number in args.gpu_ids if number < count]
    if len(present) < len(args.gpu_ids):
        present = present or [0]
        named, found = ",".join(map(str, args.gpu_ids)), ",".join(map(str, present))
        log.warning("--gpu-ids %s: this machine has %d GPU(s); computing on %s.", named, count, found)
    torch.cuda.set_device(present[0])  # what names no GPU, such as pinned memory, would open another one
    return torch.device("cuda", present[0]), present


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; on CUDA the host goes on meanwhile, if it lies in pinned memory.

    Apple's GPU would read the host's memory later without keeping it, so the host waits there.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def default_workers(streams: int) -> int:
    """Decoding processes a stream: the cores of this machine, shared among all its `streams`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores // streams))
