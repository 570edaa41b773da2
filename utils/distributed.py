"""Several processes that work as one: what `torchrun` starts, and sums over all of them.

A loss is that of the global batch. Each process computes its share of it, and the shares add up, so that two
processes do what one does with the same samples, to rounding.
"""

import datetime
import inspect
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError

# A process that fails is noticed by torchrun at once; this only bounds the wait for a slow one.
TIMEOUT = datetime.timedelta(hours=2)
FOR_GLOO_TO_FINISH = 0.2  # seconds


@dataclass(frozen=True)
class Processes:
    """This process among all: `rank` of `world_size`, and its number among those of this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, without gradient; no host waits for it."""
        if not self.is_distributed:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def broadcast(self, value: object) -> object:
        """What the main process has as `value`, in all of them; they wait for it."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: object) -> list:
        """What each process has as `value`, in the order of their ranks, in all of them; they wait for it."""
        if not self.is_distributed:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_max(self, value: int) -> int:
        """The largest of all processes' values; hosts wait for each other, none for its device."""
        if not self.is_distributed:
            return value
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over all processes in place of each gradient, in one message."""
        if not self.is_distributed:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = self.all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def shard(self, items: int) -> range:
        """This process's part of `items` things: all parts together are all of them, in order."""
        return range(self.rank * items // self.world_size, (self.rank + 1) * items // self.world_size)


SINGLE_PROCESS = Processes()


def wrap_ddp(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The network, whose gradients travel between the processes while they are computed.

    Each process keeps its own batch statistics.
    """
    known = inspect.signature(DistributedDataParallel).parameters  # torch 2.15 renamed one of them
    statistics = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        network, device_ids=devices, gradient_as_bucket_view=True, **{statistics: False}
    )


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def init_distributed(cpu: bool) -> Processes:
    """Meet the other processes that `torchrun` started; alone where there are none.

    Args:
        cpu: compute and communicate on the CPU (gloo) even where there are GPUs (NCCL).

    Raises:
        UserError: this machine has fewer GPUs than processes, or the others cannot be reached.
    """
    if not started_by_torchrun():
        return SINGLE_PROCESS
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = 0 if cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if gpus and local_rank >= gpus:
        raise UserError(
            f"torchrun: process {local_rank} of this machine has no GPU of its own (there are {gpus}); "
            "lower --nproc_per_node, or give --cpu"
        )
    if gpus:
        torch.cuda.set_device(local_rank)
    try:
        # What lies on a GPU travels by NCCL, what the hosts agree on by gloo.
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"torchrun: cannot reach the other processes ({error})") from error
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Processes(dist.get_rank(), dist.get_world_size(), local_rank, local_world_size)


def shutdown() -> None:
    """Part from the other processes at the end of a run."""
    if dist.is_initialized():
        # gloo's threads may still be releasing the last tensors, for which they need Python's lock, and the
        # group's destructor holds it while it waits for them: with torch 2.6 every third run under load hung.
        # Sleeping lends them the lock.
        time.sleep(FOR_GLOO_TO_FINISH)
        dist.destroy_process_group()
