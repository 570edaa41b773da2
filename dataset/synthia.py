"""SYNTHIA (RAND-CITYSCAPES): 16-bit labels with the class id in the red channel."""

from pathlib import Path

from dataset.base import SegmentationDataset


class Synthia(SegmentationDataset):
    """`RGB/0000000.png` with `GT/LABELS/0000000.png`; the set has no parts."""

    @property
    def image_folder(self) -> Path:
        return self.root / "RGB"

    def own_label_path(self, name: str) -> Path:
        return self.root / "GT" / "LABELS" / name
