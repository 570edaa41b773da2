"""GTA5: numbered images with palette labels, whose indices are Cityscapes' label ids."""

from pathlib import Path

from dataset.base import Domain, SegmentationDataset
from dataset.cityscapes import CITYSCAPES_COLORS, CLASS_OF_ID, KNOWN_IDS


class Gta5(SegmentationDataset):
    """`images/00001.png` with `labels/00001.png`; the set has no splits."""

    divided = False

    @property
    def image_folder(self) -> Path:
        return self.root / "images"

    def own_label_path(self, name: str) -> Path:
        return self.root / "labels" / name


GTA5 = Domain(
    name="gta5",
    prefix="GTA5",
    root=Path("./data/GTA5"),
    colors=CITYSCAPES_COLORS,
    class_of_id=CLASS_OF_ID,
    known_ids=KNOWN_IDS,
    dataset=Gta5,
)
