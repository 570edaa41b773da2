"""What an evaluation counts, and what follows from the counts: of the whole set and of each image."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataset import Adaptation
from utils.distributed import Processes
from utils.metrics import class_mean, confusion_matrix, format_iou_columns, iou
from utils.parts import one_thread

HITS, LABELLED, PREDICTED = range(3)  # what is counted of an image for each class, in pixels


class Scores(NamedTuple):
    """Of one image by one column; None without a labelled pixel.

    `accuracy`: the share of its labelled pixels that are right. `miou`: mean IoU over those classes of the
    benchmark's mean that occur in its label or, on labelled pixels, in its prediction.
    """

    accuracy: float | None
    miou: float | None


class ImageScores(NamedTuple):
    """Of one image: name, labelled pixels, `Scores` a column, mean and maximal uncertainty in nats."""

    image: str
    pixels: int
    scores: tuple[Scores, ...]
    uncertainty_mean: float | None
    uncertainty_max: float | None


class PixelCounts:
    """Pixel counts of a set and of each image in it, for each of several columns of predictions.

    The counts stay on the device and small: no picture is kept, and of an image three numbers a class.

    Args:
        images: in the whole set, of which each process counts its own.
        titles: of the columns, such as weightings of the classifiers.
        classes: C.
    """

    def __init__(self, images: int, titles: Sequence[str], classes: int, device: torch.device):
        self.titles, self.classes = tuple(titles), classes
        columns = len(self.titles)
        # (columns, C, C+1): the last column is of predictions outside the classes
        self.matrices = torch.zeros(columns, classes, classes + 1, dtype=torch.int64, device=device)
        self._counts = torch.zeros(images, columns, 3, classes, dtype=torch.int64, device=device)
        self._uncertainty = torch.zeros(images, 2, device=device)
        self._unsure = torch.zeros(images, dtype=torch.int64, device=device)  # 1: its uncertainty is known

    def add(
        self, index: int, label: Tensor, predictions: Iterable[Tensor], uncertainty: Tensor | None = None
    ) -> None:
        """Count in image `index` of the set; all (H, W), on the device.

        Args:
            label: integers; a pixel outside 0 ... C-1 counts nowhere.
            predictions: one a column, integers.
            uncertainty: nats.
        """
        for column, prediction in enumerate(predictions):
            matrix = confusion_matrix(label, prediction, self.classes, void=True)
            self.matrices[column] += matrix
            of_classes = matrix[:, : self.classes]
            self._counts[index, column] = torch.stack([matrix.diagonal(), matrix.sum(1), of_classes.sum(0)])
        if uncertainty is not None:
            with one_thread(uncertainty.device):
                self._uncertainty[index] = torch.stack([uncertainty.mean(), uncertainty.max()])
            self._unsure[index].fill_(1)

    def gather(self, processes: Processes) -> None:
        """Count in what all processes counted, and bring it to the CPU."""
        for name in ("matrices", "_counts", "_uncertainty", "_unsure"):
            setattr(self, name, processes.all_reduce_sum(getattr(self, name)).cpu())

    def image_scores(self, names: Iterable[str], mean: Sequence[int]) -> list[ImageScores]:
        """The scores of each image, after `gather`.

        Args:
            names: of all images of the set, in its order.
            mean: the classes of the benchmark's mean.
        """
        counts = self._counts.double().numpy()
        with np.errstate(invalid="ignore"):  # 0 / 0 is nan
            ious = counts[:, :, HITS] / (
                counts[:, :, LABELLED] + counts[:, :, PREDICTED] - counts[:, :, HITS]
            )
            accuracies = counts[:, :, HITS].sum(2) / counts[:, :, LABELLED].sum(2)
        pixels = self._counts[:, 0, LABELLED].sum(1).tolist()
        found = []
        for index, name in enumerate(names):
            scores = tuple(
                Scores(number(float(accuracy)), number(class_mean(values, mean)))
                for accuracy, values in zip(accuracies[index], ious[index], strict=True)
            )
            unsure = self._uncertainty[index].tolist() if self._unsure[index] else (None, None)
            found.append(ImageScores(name, pixels[index], scores, *unsure))
        return found


def summary(pair: Adaptation, tally: PixelCounts, gap: float | None) -> dict:
    """The result for programs: fractions, null for a class that does not occur and for a mean of none.

    `iou`, `means`, `miou` (the first of the means), `pixel_accuracy`, `confusion` and `void_predictions` are
    of the first column; `classifiers` has IoU, means and pixel accuracy of each.
    """
    columns = {}
    for title, matrix in zip(tally.titles, tally.matrices, strict=True):
        values = iou(matrix)
        columns[title] = {
            "means": {mean: number(class_mean(values, indices)) for mean, indices in pair.means.items()},
            "pixel_accuracy": number((matrix.diagonal().sum().double() / matrix.sum()).item()),
            "iou": {name: number(v.item()) for name, v in zip(pair.classes, values, strict=True)},
        }
    first, matrix = columns[tally.titles[0]], tally.matrices[0]
    return {
        "miou": next(iter(first["means"].values())),
        **first,
        "classifiers": columns,
        "uncertainty_gap": None if gap is None else number(gap),
        "confusion": matrix[:, : tally.classes].tolist(),
        "void_predictions": matrix[:, tally.classes].tolist(),
        "colors": {name: list(color) for name, color in pair.colors.items()},
    }


def number(value: float) -> float | None:
    """JSON has no nan."""
    return None if np.isnan(value) else value


def table(pair: Adaptation, tally: PixelCounts, result: dict, images: int) -> str:
    """The table for people: IoU of each class and the means in percent, a column each; pixels and shares."""
    several = len(tally.titles) > 1
    columns = {
        title if several else "IoU": iou(matrix)
        for title, matrix in zip(tally.titles, tally.matrices, strict=True)
    }
    pixels = tally.matrices[0].sum(1).tolist()
    lines = [format_iou_columns(pair.classes, columns, pair.means, pixels)]
    if len(pair.means) > 1:
        sizes = ", ".join(f"{mean} over {len(indices)} classes" for mean, indices in pair.means.items())
        lines.append(f"{sizes}; in parentheses: in no mean")
    if several:
        lines.append("columns: weights of the primary and the auxiliary classifier")
    accuracies = [column["pixel_accuracy"] for column in result["classifiers"].values()]
    shown = ", ".join("absent" if share is None else f"{100 * share:.2f}" for share in accuracies)
    lines.append(f"pixel accuracy {shown}; {images} images, {sum(pixels):,} labelled pixels")
    if result["uncertainty_gap"] is not None:
        lines.append(f"uncertainty gap {result['uncertainty_gap']:.4f}")
    return "\n".join(lines)
