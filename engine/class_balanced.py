"""Class-balanced pseudo labels of a whole set (CBST, CRST): the network runs once, its maps are read again.

Thresholds need the scores of all images before the first label. What the network gives is therefore kept at
its own stride, about 1.6 MB per image, in a temporary file, and upsampled in every pass: two passes find the
thresholds, one makes the labels. No full-size map is ever stored.
"""

import json
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.self_training import CLASS_BALANCE
from utils import class_balance
from utils.argmax import upsample, upsampled_sum
from utils.atomic import atomic_write
from utils.device import single_thread
from utils.distributed import Processes
from utils.errors import UserError
from utils.inference import NOT_FINITE, Prediction
from utils.losses import class_pixel_counts

BEST_IMAGES = "best_images.txt"
Size = tuple[int, int]


class MapFile:
    """Maps of many images, single precision, in a temporary file that vanishes with the process.

    Args:
        folder: where the file lies; its disk needs the space.
        device: where the maps are read to.
    """

    def __init__(self, folder: Path, device: torch.device):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device = folder, device
        self.entries: list[tuple[str, Size, int, list[torch.Size]]] = []  # name, size, offset, shapes
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object

    def append(self, name: str, size: Size, maps: Sequence[Tensor]) -> None:
        """Add the maps of an image whose predictions are to have `size`.

        Raises:
            UserError: a value is not finite, or the disk is full.
        """
        values = np.concatenate([m.float().flatten().cpu().numpy() for m in maps])
        if not np.isfinite(values).all():
            raise UserError(f"{name}: {NOT_FINITE}")
        self.entries.append((name, size, self._file.tell(), [m.shape for m in maps]))
        try:
            self._file.write(values)
            self._file.flush()
        except OSError as error:
            need = f"{values.nbytes / 1e6:.1f} MB per image"
            raise UserError(f"{self.folder}: {error.strerror}; free space, it needs {need}") from error

    def __iter__(self) -> Iterator[tuple[str, Size, list[Tensor]]]:
        """Name, size and maps of each image, in the order they came."""
        for name, size, offset, shapes in self.entries:
            counts = [shape.numel() for shape in shapes]
            self._file.seek(offset)
            values = torch.from_numpy(np.frombuffer(self._file.read(4 * sum(counts)), np.float32).copy())
            parts = values.to(self.device).split(counts)
            yield name, size, [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class ClassBalancedLabels:
    """The class-balanced pseudo labels of a set, of which each process predicts and labels its share.

    Args:
        maps: `predict_maps` of this process's share.
        args: flags of generate_plabel_cityscapes.py.
        folder: of the labels.

    Attributes:
        images: number of images that get labels, over all processes.
        summary: the content of class_balance.json, but for the pixels labelled.
    """

    def __init__(
        self,
        maps: Iterable[tuple[str, Size, Sequence[Tensor]]],
        args: Namespace,
        folder: Path,
        device: torch.device,
        processes: Processes,
    ):
        self.args, self.processes = args, processes
        self.maps = MapFile(folder, device)
        for image in maps:
            self.maps.append(*image)
        if args.best_images:
            self._keep_best(folder)
        self.images = sum(processes.gather(len(self.maps.entries)))
        classes = args.num_classes
        search = class_balance.ThresholdSearch(classes, args.portion, processes.all_reduce_sum, device)
        predicted = torch.zeros(classes, dtype=torch.int64, device=device)

        def scores() -> Iterator[list[Tensor]]:
            predicted.zero_()
            for _, p, _ in self._probabilities():
                score, label = p.max(0)
                predicted.add_(class_pixel_counts(label, classes))
                yield class_balance.split_scores(score, label, classes, args.ds_rate)

        thresholds = search.thresholds(scores)
        pixels = processes.all_reduce_sum(predicted).cpu()
        self.thresholds = thresholds.to(device)
        self.summary = {
            "portion": args.portion,
            "lr_weight_ent": args.lr_weight_ent,
            "ds_rate": args.ds_rate,
            "mine_port": args.mine_port,
            "images": self.images,
            "thresholds": thresholds.tolist(),
            "scores": search.numbers,
            "selected": search.ranks,
            "predicted_pixels": pixels.tolist(),
            "mined_classes": class_balance.mined_classes(pixels, args.mine_port),
        }

    @torch.inference_mode()
    def __iter__(self) -> Iterator[tuple[str, Prediction, Tensor | None]]:
        """Name, prediction with 255 for no label, and soft labels (C, H, W) of this process's images."""
        for name, p, uncertainty in self._probabilities():
            soft = None
            if self.args.lr_weight_ent:
                soft = class_balance.soft_labels(p, self.thresholds, self.args.lr_weight_ent)
                label = class_balance.hard_of_soft(soft)
            else:
                label = class_balance.hard_labels(p, self.thresholds)
            yield name, Prediction(label, p.amax(0), uncertainty), soft

    @torch.inference_mode()
    def _probabilities(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, probabilities (C, H, W) and uncertainty (H, W) of each image, the same bits in every pass."""
        for name, size, (*scales, uncertainty) in self.maps:
            with single_thread():
                total = upsampled_sum((m[None] for m in scales), size)
                yield name, total.div_(2 * len(scales)), upsample(uncertainty[None], size)[0, 0]

    def _keep_best(self, folder: Path) -> None:
        """Keep the `best_images` images of the highest score, and write their names as a list."""
        mine = [(class_balance.image_score(p), name) for name, p, _ in self._probabilities()]
        scored = [pair for of_process in self.processes.gather(mine) for pair in of_process]
        best = sorted(name for _, name in sorted(scored, reverse=True)[: self.args.best_images])
        self.maps.entries = [entry for entry in self.maps.entries if entry[0] in set(best)]
        if self.processes.is_main:
            text = "".join(f"{name}\n" for name in best)
            atomic_write(folder / BEST_IMAGES, lambda tmp: tmp.write_text(text, encoding="utf-8"))

    def columns(self) -> dict[str, list[str]]:
        """More columns of the table of classes: the pixels predicted as each, and its threshold."""
        predicted = [f"{count:,}" for count in self.summary["predicted_pixels"]]
        return {"predicted": predicted, "threshold": [f"{t:.4f}" for t in self.summary["thresholds"]]}

    def write_summary(self, folder: Path, labelled: Sequence[int]) -> None:
        """Write class_balance.json, with the pixels `labelled` as each class (C,)."""
        text = json.dumps(self.summary | {"labelled_pixels": list(labelled)}, indent=1)
        atomic_write(folder / CLASS_BALANCE, lambda tmp: tmp.write_text(f"{text}\n", encoding="utf-8"))
