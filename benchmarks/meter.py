"""What a computation does by arithmetic: FLOPs and living bytes, counted operation by operation.

Under `FakeTensorMode` nothing is computed and no memory is taken, so the counts of the real network at the
published size are had on any machine. They hold no kernels' work space, no fragmentation and no CUDA context.
"""

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# It works in place and needs no memory, but torch cannot pretend to run it, and would run it.
FUSED_SGD = "_fused_sgd_"
if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{FUSED_SGD}", "Meta"):
    _kernels = torch.library.Library("aten", "IMPL")
    _kernels.impl(FUSED_SGD, lambda *_, **__: None, "Meta")

OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_")  # without reading


class Meter(TorchDispatchMode):
    """Counts within its context.

    `flops`: a multiply and an add are 2. `live` and `peak` bytes: of tensors made inside; what is given up
    counts no longer. `moved` bytes: what operations without FLOPs in this sense (all but convolutions and
    matrix products) read and write, and `operations`, how many do anything at all.
    """

    def __init__(self):
        super().__init__()
        self.live = 0
        self.start()
        self._seen = weakref.WeakSet()

    def start(self) -> None:
        """Count from 0; what lives goes on living."""
        self.flops = self.moved = self.operations = 0
        self.peak = self.live

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = _tensors(result)
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **kwargs, out_val=result)
        elif _works(func):
            self.moved += _moved(func, args, kwargs, made)
        self.operations += _works(func)
        for leaf in made:
            self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._give_up, size)

    def _give_up(self, size: int) -> None:
        self.live -= size


def _works(func: torch._ops.OpOverload) -> bool:
    """Whether an operation computes, and does not only look at a tensor otherwise or take memory."""
    if func.namespace != "aten" or func.__name__.startswith(("empty", "new_empty", "detach", "lift_fresh")):
        return False
    returned = [returns.alias_info for returns in func._schema.returns]
    return not any(alias and not alias.is_write for alias in returned)


def _moved(func: torch._ops.OpOverload, args: tuple, kwargs: dict, made: list[Tensor]) -> int:
    """Bytes that an operation reads and writes, as its schema says of each argument."""
    schema, moved = func._schema, 0
    for number, argument in enumerate(schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        read = not (written and func.__name__.partition(".")[0] in OVERWRITES)
        moved += (written + read) * sum(map(_size, _tensors(value)))
    in_place = any(returned.alias_info for returned in schema.returns)
    return moved if in_place else moved + sum(map(_size, made))


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes of memory behind it: what is expanded is there once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
