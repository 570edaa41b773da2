"""How many images the network sees at once, by the memory at hand."""

import logging

import torch

# Of a pass by the pixels of the largest scale: 840 bytes measured with ResNet-101 on a CPU, and room.
BYTES_A_PIXEL = 1200
log = logging.getLogger(__name__)


def images_a_pass(wanted: int, pixels: int, device: torch.device) -> int:
    """`wanted` images of so many pixels, or as many as fit into the device's memory, which it then says.

    A CPU takes one: it gains nothing from several, and loses time on large blocks of new memory and on
    waiting until several are decoded.
    """
    if device.type == "cpu":
        return 1
    free = free_memory(device)
    if free is None:
        return wanted
    fitting = max(1, min(wanted, free // (BYTES_A_PIXEL * pixels)))
    if fitting < wanted:
        log.info(
            "--batchsize %d: %.1f GiB of memory are free, so %d images a pass (the results are the same).",
            *(wanted, free / 2**30, fitting),
        )
    return fitting


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device can still give this process; None where torch does not say."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held
