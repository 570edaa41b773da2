"""In which arithmetic the network computes; losses, discriminators and optimisers keep full numbers."""

import logging
import os

import torch

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # autocast's type
log = logging.getLogger(__name__)


def prepare(precision: str, device: torch.device, deterministic: bool = False) -> str:
    """Set up the device's arithmetic; the precision it has, which for `fp16` off CUDA is full precision.

    `tf32` is torch's own default for convolutions, here for matrix products too; `fp32` rounds nothing. The
    two differ on NVIDIA GPUs from Ampere on and nowhere else. `deterministic` allows only operations that
    repeat to the bit, where torch has them, and warns of the others.
    """
    if precision == "fp16" and device.type != "cuda":
        log.warning("--fp16 needs a CUDA GPU: computing in full precision.")
        precision = "fp32"
    if device.type == "cuda":
        rounded = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = rounded
        # Every batch has the same shape: the search for the fastest pays once, and may end differently.
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS asks for
        torch.use_deterministic_algorithms(True, warn_only=True)
    return precision
