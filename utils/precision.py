"""In which arithmetic the network computes; losses, discriminators and optimisers keep full numbers."""

import logging

import torch

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # autocast's type
log = logging.getLogger(__name__)


def prepare(precision: str, device: torch.device) -> str:
    """Set up the device's arithmetic; the precision it has, which for `fp16` off CUDA is full precision.

    `tf32` is torch's own default for convolutions, here for matrix products too; `fp32` rounds nothing. The
    two differ on NVIDIA GPUs from Ampere on and nowhere else.
    """
    if precision == "fp16" and device.type != "cuda":
        log.warning("--fp16 needs a CUDA GPU: computing in full precision.")
        precision = "fp32"
    if device.type == "cuda":
        rounded = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = rounded
        torch.backends.cudnn.benchmark = True  # every batch has the same shape: the search pays once
    return precision
