"""GTA5: images and palette labels by number, in Cityscapes' label ids."""

from pathlib import Path

from dataset.base import SegmentationDataset


class GTA5(SegmentationDataset):
    """`images/00001.png` with `labels/00001.png`; the set has no parts."""

    @property
    def image_folder(self) -> Path:
        return self.root / "images"

    def own_label_path(self, name: str) -> Path:
        return self.root / "labels" / name
