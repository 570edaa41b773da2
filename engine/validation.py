"""`--eval-every`: the validation mIoU while a network trains."""

from argparse import Namespace

import numpy as np
import torch
from torch import Tensor, nn

from dataset import Adaptation, PredictionDataset, SegmentationDataset, build_dataset
from dataset.sampling import batches
from utils.device import default_workers, to_device
from utils.distributed import Processes
from utils.losses import fuse
from utils.metrics import class_mean, confusion_matrix, iou
from utils.preprocess import to_network_input
from utils.stopping import StopRequest, leave_stopping_to_the_main_process
from utils.upsampling import maximum_of_sum


def validation_data(pair: Adaptation, args: Namespace) -> SegmentationDataset:
    """The images that `--eval-set` and `--eval-list` name."""
    return build_dataset(
        args.target,
        args.data_dir_target,
        split=args.eval_set,
        list_file=args.eval_list,
        colors=pair.colors,
        ignore_label=args.ignore_label,
    )


class Validation:
    """Measures IoU on labelled images of the target, one pass each at the training's target size.

    The evaluation takes four passes an image and finds a little more. Random states and batch statistics are
    left as they were: a run with it is the same as one without.

    Args:
        data: the images; all have labels.
        pair: names of the classes and the means.
        args: the training's flags.
    """

    def __init__(self, data: SegmentationDataset, pair: Adaptation, args: Namespace):
        self.images = PredictionDataset(data, [args.input_size_target], labels=True)
        self.pair, self.workers = pair, args.num_workers

    @torch.no_grad()
    def measure(self, network: nn.Module, processes: Processes, stop: StopRequest) -> dict | None:
        """`means` and `iou` by name as fractions, None where nan; None as a whole if asked to stop meanwhile.

        All processes call it, each measures its part of the images.
        """
        device = next(network.parameters()).device
        classes = len(self.pair.colors)
        modes = [(module, module.training) for module in network.modules()]
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        network.eval()
        try:
            with torch.random.fork_rng(devices=[]):  # starting workers draws from torch's generator
                workers = (
                    default_workers(processes.local_world_size) if self.workers is None else self.workers
                )
                shard = processes.shard(len(self.images))
                mine = batches(
                    torch.utils.data.Subset(self.images, shard),
                    batch_size=1,
                    workers=workers,
                    pin_memory=device.type == "cuda",
                    worker_init=leave_stopping_to_the_main_process,
                )
                for _ in range(max(processes.gather(len(shard)))):
                    if processes.all_reduce_max(stop.number):
                        return None
                    if batch := next(mine, None):
                        counts += self._confusion(network, batch, device)
        finally:
            for module, mode in modes:
                module.training = mode
        return self._result(processes.all_reduce_sum(counts))

    def _confusion(self, network: nn.Module, batch: dict, device: torch.device) -> Tensor:
        images = to_network_input(to_device(batch["images"][0], device))
        label = to_device(batch["label"][0], device)
        _, prediction = maximum_of_sum([fuse(*network(images)).softmax(1)], label.shape)
        return confusion_matrix(label, prediction, len(self.pair.colors))

    def _result(self, matrix: Tensor) -> dict:
        values = iou(matrix.cpu())
        means = {name: class_mean(values, indices) for name, indices in self.pair.means.items()}
        by_class = dict(zip(self.pair.classes, values.tolist(), strict=True))
        return {
            title: {name: None if np.isnan(value) else float(value) for name, value in part.items()}
            for title, part in (("means", means), ("iou", by_class))
        }
