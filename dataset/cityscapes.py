"""Cityscapes with its fine labels."""

from pathlib import Path

from dataset.base import SegmentationDataset

IMAGE_SUFFIX = "_leftImg8bit.png"
LABEL_SUFFIX = "_gtFine_labelIds.png"


class Cityscapes(SegmentationDataset):
    """`leftImg8bit/<split>/<city>/…_leftImg8bit.png` with `gtFine/<split>/<city>/…_gtFine_labelIds.png`."""

    image_suffixes = (IMAGE_SUFFIX,)

    @property
    def image_folder(self) -> Path:
        return self.root / "leftImg8bit" / self.split

    def own_label_path(self, name: str) -> Path:
        return self.root / "gtFine" / self.split / (name.removesuffix(IMAGE_SUFFIX) + LABEL_SUFFIX)
