"""Out of memory: another try with less where that helps, else one line that names the flags that do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from utils.errors import UserError

T = TypeVar("T")
SIGNS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # CUDA and Apple; CPU; cuBLAS and cuDNN
PRECISION_ADVICE = "--precision bf16 (fp16 on a card before RTX 30)"
FRAGMENTS_ADVICE = "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in the environment"
SENTENCES = 3  # of torch's message: what failed, the size, and how much the device has


def ran_out(error: Exception) -> bool:
    """Whether an exception is a failed allocation, of a device or of the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


def unless_out_of_memory(compute: Callable[[], T]) -> T | None:
    """`compute()`, or None if memory ran out; then everything that it had allocated is free again."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
    torch.cuda.empty_cache()  # only now: the exception's frames kept the tensors alive
    return None


@contextmanager
def out_of_memory_advice(advice: str) -> Iterator[None]:
    """Report a failed allocation with the flags that need less; also a decorator.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        reason = ". ".join(str(error).split(". ")[:SENTENCES]) or type(error).__name__
        raise UserError(f"out of memory: {advice}, or {FRAGMENTS_ADVICE} ({reason})") from error
