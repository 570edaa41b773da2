"""What a round of self-training (CBST, CRST) trains on: class-balanced pseudo labels and source images."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dataset.base import SegmentationDataset
from dataset.images import DataError

CLASS_BALANCE = "class_balance.json"  # written beside the labels by generate_plabel_cityscapes.py
SUBSET = 2  # a use of the seed, beside those in dataset.sampling


def read_class_balance(folder: Path, portion: float, lr_weight_ent: float) -> dict:
    """How the class-balanced labels in a folder were made, and what they hold.

    Raises:
        DataError: the file is missing or damaged, or the labels were made with other flags.
    """
    path = folder / CLASS_BALANCE
    try:
        balance = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in (("thresholds", float), ("mined_classes", int), ("labelled_pixels", int)):
            balance[key] = list(map(kind, balance[key]))
        made = {"--portion": balance["portion"], "--lr-weight-ent": balance["lr_weight_ent"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path}: is missing or damaged; make class-balanced labels with generate_plabel_cityscapes.py "
            f"--portion {portion:g}"
        ) from error
    for (flag, used), wanted in zip(made.items(), (portion, lr_weight_ent), strict=True):
        if wanted != used:
            raise DataError(f"{path}: the labels were made with {flag} {used}, not {wanted}; give the same")
    return balance


class MixedDataset(Dataset):
    """Pseudo-labelled target images and a random part of the source's images with their true labels.

    Samples are those of the two sets and `pseudo`, whether the label is a pseudo label. If the pseudo labels
    are soft, true labels become vectors too.

    Args:
        target: with pseudo labels.
        source: with true labels; reduced to floor(portion * images), drawn without replacement.
        portion: above 0.
        seed: of the choice.

    Raises:
        DataError: that is no image.
    """

    def __init__(self, target: SegmentationDataset, source: SegmentationDataset, portion: float, seed: int):
        number = int(len(source) * portion)
        if not number:
            raise DataError(
                f"--source-portion {portion:g}: of {len(source)} source images that is none; raise it"
            )
        order = np.random.default_rng((seed, SUBSET)).permutation(len(source))
        source.names = source.names[np.sort(order[:number])]
        self.target, self.source = target, source
        self.names = np.concatenate([target.names, source.names])
        self.image_folder, self.pseudo_folder = target.image_folder, target.pseudo_folder

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        """The training sample of image `index` that `rng` draws; the target's images come first."""
        pseudo = index < len(self.target)
        if pseudo:
            return self.target.sample(index, rng) | {"pseudo": True}
        sample = self.source.sample(index - len(self.target), rng)
        if classes := self.target.soft_classes:
            sample["soft_labels"] = one_hot(sample["label"], classes)
        return sample | {"pseudo": False}

    def check(self, labels_required: bool) -> bool:
        """As `SegmentationDataset.check`, of both sets."""
        return all([data.check(labels_required) for data in (self.target, self.source)])


def one_hot(label: torch.Tensor, classes: int) -> torch.Tensor:
    """(H, W) uint8 -> (C, H, W) float32, all 0 where the label is no class."""
    return (label == torch.arange(classes, dtype=label.dtype)[:, None, None]).float()
