"""Cityscapes: with its own fine labels, and with pseudo labels."""

from pathlib import Path

from dataset.base import SegmentationDataset

IMAGE_SUFFIX = "_leftImg8bit.png"
LABEL_SUFFIX = "_gtFine_labelIds.png"


class Cityscapes(SegmentationDataset):
    """`leftImg8bit/<split>/<city>/…_leftImg8bit.png` with `gtFine/<split>/<city>/…_gtFine_labelIds.png`."""

    image_suffix = IMAGE_SUFFIX

    @property
    def image_folder(self) -> Path:
        return self.root / "leftImg8bit" / self.split

    def label_path(self, name: str) -> Path:
        return self.root / "gtFine" / self.split / (name.removesuffix(IMAGE_SUFFIX) + LABEL_SUFFIX)


class PseudoCityscapes(Cityscapes):
    """Cityscapes' images with the labels in `pseudo_folder`, already in train ids, by the image's name."""

    def __init__(self, *args, pseudo_folder: Path, **kwargs):
        super().__init__(*args, **kwargs)
        self.pseudo_folder = pseudo_folder

    def label_path(self, name: str) -> Path:
        return self.pseudo_folder / name

    def missing_label(self, path: Path) -> str:
        return (
            f"{path}: no pseudo label; make them with generate_plabel_cityscapes.py and the same --threshold"
        )
