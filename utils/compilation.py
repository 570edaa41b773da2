"""`--compile`: the segmentation network through torch.compile, tried before training starts."""

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
BACKEND = "inductor"


def compile_network(trainer: nn.Module, images: Tensor) -> bool:
    """Compile `trainer.G` where that works; weights, statistics and random numbers stay as they were.

    torch compiles when a network is first used, and its backward pass later still, so both are used here,
    on images of the training's shape (N, 3, H, W): a failure is one warning, and training goes on without.
    """
    if trainer.processes.is_distributed or len(trainer.device_ids) > 1:
        log.warning("--compile is for one process with one device: computing without it.")
        return False
    buffers = [(buffer, buffer.clone()) for buffer in trainer.G.buffers()]
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            trainer.G.compile(backend=BACKEND)
            # Stage II's target pass takes no gradients, which is another program.
            with torch.no_grad():
                trainer.segment(images)
            sum(z.sum() for z in trainer.segment(images)).backward()
            compiled = True
        except Exception as error:  # noqa: BLE001 - compilers and their tools fail in every way there is
            trainer.G._compiled_call_impl = None
            reason = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("--compile failed (%s): computing without it.", reason[0])
            compiled = False
    for buffer, before in buffers:
        buffer.copy_(before)
    trainer.gen_opt.zero_grad()
    return compiled
