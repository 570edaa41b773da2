"""`--eval-every`: the validation mIoU while a network trains."""

import math
from argparse import Namespace

import torch
from torch import nn

from dataset import Adaptation, PredictionDataset, SegmentationDataset
from dataset.sampling import batches
from engine.evaluation import mean_and_class_ious
from utils.device import InPrecision, count_workers, to_device
from utils.distributed import Processes
from utils.errors import StopRequest, ignore_stop_signals
from utils.inference import SingleScaleModel
from utils.metrics import confusion_matrix


class Validation:
    """Measures the IoU on labelled target images, with one pass per image at the training's target size.

    The network computes in the training's precision, and never as `--compile` compiled it: other graphs would
    be compiled for this size and for evaluation mode in the middle of a run.

    `evaluate_cityscapes.py` uses four passes and scores slightly higher. Random states and batch statistics
    are restored, so a run with validation is identical to one without.

    Args:
        data: images that all have labels.
        pair: names of the classes and the means.
        args: flags of the training.
    """

    def __init__(self, data: SegmentationDataset, pair: Adaptation, args: Namespace):
        self.images = PredictionDataset(data, [args.input_size_target], labels=True)
        self.pair, self.workers, self.precision = pair, args.num_workers, args.precision

    @torch.no_grad()
    def measure(self, network: nn.Module, processes: Processes, stop: StopRequest) -> dict | None:
        """`means` and `iou` by name, as fractions, None for nan; None instead of a dict after a stop request.

        All ranks call it; each measures every `world_size`-th image.
        """
        device = next(network.parameters()).device
        model = SingleScaleModel(InPrecision(network.forward, self.precision))
        classes = len(self.pair.colors)
        workers = count_workers(self.workers, processes.local_world_size)
        modes = [(module, module.training) for module in network.modules()]
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        network.eval()
        try:
            with torch.random.fork_rng(devices=[]):  # starting a DataLoader draws from torch's generator
                # One image per rank and round; the last round may have none for some.
                options = (processes.world_size, workers, device.type == "cuda", processes.shard)
                loaded = batches(self.images, *options, worker_init=ignore_stop_signals)
                for _ in range(math.ceil(len(self.images) / processes.world_size)):
                    if processes.all_reduce_max(stop.signum):
                        return None
                    if batch := next(loaded, None):
                        label = to_device(batch["label"][0], device)
                        prediction, *_ = model(to_device(batch["images"][0], device), tuple(label.shape))
                        counts += confusion_matrix(label, prediction[0], classes)
        finally:
            for module, mode in modes:
                module.training = mode
        means, by_class = mean_and_class_ious(self.pair, processes.all_reduce_sum(counts).cpu())
        return {"means": means, "iou": by_class}
