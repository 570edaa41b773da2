"""In which arithmetic the network computes; losses, discriminators and optimisers keep full numbers."""

import logging
import os

import torch
from torch import Tensor, nn

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # autocast's type
log = logging.getLogger(__name__)


class InPrecision(nn.Module):
    """A network in one of `PRECISIONS`, in whatever thread it is called.

    Each thread has an autocast type of its own, float16 unless it sets another, and DataParallel calls every
    GPU's copy in a new thread: it is set here, within the call, and not around it.
    """

    def __init__(self, network: nn.Module, precision: str):
        super().__init__()
        self.network, self.dtype = network, PRECISIONS[precision]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> what the network makes of them, in the precision's type."""
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            return self.network(images)


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
