"""Oxford RobotCar: training images without labels, annotated validation images."""

from pathlib import Path

from dataset.base import SegmentationDataset, prediction_name
from dataset.images import picture_suffixes


class RobotCar(SegmentationDataset):
    """`train/<sequence>/…` and `val/…`, each image of `val` with `anno/<the same name>.png`."""

    image_suffixes = picture_suffixes()

    @property
    def image_folder(self) -> Path:
        return self.root / self.split

    def own_label_path(self, name: str) -> Path:
        return self.root / "anno" / prediction_name(name)
