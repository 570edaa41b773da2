"""Training and predicting with the processes that `torchrun` starts.

A loss is that of the global batch: each rank computes its share and the shares add up, so that two processes
compute what one does with the same samples, up to rounding.
"""

import datetime
import inspect
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError

# torchrun notices a failed process of its machine at once; this bounds the wait for a machine that vanished.
TIMEOUT = datetime.timedelta(minutes=15)
CHECK_TIMEOUT = datetime.timedelta(hours=2)  # while rank 0 alone looks at all files
GLOO_GRACE = 0.2  # seconds


@dataclass(frozen=True)
class Processes:
    """Rank, world size, local rank and local world size, with the collective operations of the project.

    Every operation also works in a single process, where it returns its argument. It fails with a
    RuntimeError after `TIMEOUT`, or at once when the connection to another process breaks.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    patient: dist.ProcessGroup | None = field(default=None, compare=False)  # waits for `CHECK_TIMEOUT`

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, without gradient and without a synchronisation."""
        if not self.is_distributed:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def all_reduce_whole(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, for a loss that each rank computes whole and divides by their count.

        The gradient of such shares, added up over the ranks, is that of the loss.
        """
        if not self.is_distributed:
            return tensor
        return self.all_reduce_sum(tensor) + self.world_size * (tensor - tensor.detach())

    def broadcast(self, value: object, patient: bool = False) -> object:
        """Rank 0's `value`, on all ranks; blocks, if `patient` for up to `CHECK_TIMEOUT`."""
        if not self.is_distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.patient if patient else None)
        return values[0]

    def gather(self, value: object) -> list:
        """Every rank's `value` in rank order, on all ranks; blocks."""
        if not self.is_distributed:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_max(self, value: int) -> int:
        """The largest value over all ranks; blocks, but does not synchronise with the device."""
        if not self.is_distributed:
            return value
        values = torch.tensor(value)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def all_reduce_min(self, value: int) -> int:
        """The smallest value over all ranks, as `all_reduce_max`."""
        return -self.all_reduce_max(-value)

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks, in one message."""
        if not self.is_distributed:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = self.all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def shard(self, items: int) -> range:
        """This rank's share of `items` indices; the shares of all ranks are consecutive and cover them."""
        return range(self.rank * items // self.world_size, (self.rank + 1) * items // self.world_size)


SINGLE_PROCESS = Processes()


def wrap_ddp(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The network in DistributedDataParallel, each rank with its own batch statistics."""
    known = inspect.signature(DistributedDataParallel).parameters  # torch 2.15 renamed broadcast_buffers
    statistics = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in known)
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        network, device_ids=devices, gradient_as_bucket_view=True, **{statistics: False}
    )


def init_distributed(cpu: bool) -> Processes:
    """Connect to the other processes that `torchrun` started, if any.

    Args:
        cpu: compute and communicate on the CPU (gloo) even where there are GPUs (NCCL).

    Raises:
        UserError: this machine has fewer GPUs than processes, or the other processes are unreachable.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        return SINGLE_PROCESS
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = 0 if cpu or not torch.cuda.is_available() else torch.cuda.device_count()
    if gpus and local_rank >= gpus:
        problem = f"process {local_rank} has no GPU of its own (there are {gpus})"
        raise UserError(f"torchrun: {problem}; lower --nproc_per_node, or give --cpu")
    if gpus:
        torch.cuda.set_device(local_rank)
    try:
        # GPU tensors use NCCL, Python objects and CPU tensors gloo.
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
        patient = dist.new_group(backend="gloo", timeout=CHECK_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"torchrun: cannot reach the other processes ({error})") from error
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Processes(dist.get_rank(), dist.get_world_size(), local_rank, local_world_size, patient)


def shutdown() -> None:
    """Leave the process group at the end of a run."""
    if dist.is_initialized():
        # torch 2.6 can deadlock here: destroy_process_group holds the GIL while it waits for gloo threads
        # that need it to release their tensors. A short sleep lets them finish.
        time.sleep(GLOO_GRACE)
        dist.destroy_process_group()
