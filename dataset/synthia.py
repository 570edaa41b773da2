"""SYNTHIA (RAND-CITYSCAPES): 16-bit labels with the class id in the red channel."""

from pathlib import Path

from dataset.base import Domain, SegmentationDataset
from dataset.cityscapes import CITYSCAPES_COLORS
from dataset.images import FirstChannelReader

# Ids 0, 13, 14 and 22 have no class.
CLASS_OF_ID = {
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "person",
    11: "bicycle",
    12: "motorcycle",
    15: "traffic light",
    16: "terrain",
    17: "rider",
    18: "truck",
    19: "bus",
    20: "train",
    21: "wall",
}
# Both papers leave these out of the mean IoU on SYNTHIA -> Cityscapes: of mIoU (16 classes), of mIoU* (13).
NOT_IN_MIOU = ("terrain", "truck", "train")
NOT_IN_MIOU_13 = (*NOT_IN_MIOU, "wall", "fence", "pole")


class Synthia(SegmentationDataset):
    """`RGB/0000000.png` with `GT/LABELS/0000000.png`; the set has no splits."""

    divided = False

    @property
    def image_folder(self) -> Path:
        return self.root / "RGB"

    def own_label_path(self, name: str) -> Path:
        return self.root / "GT" / "LABELS" / name


SYNTHIA = Domain(
    name="synthia",
    prefix="SYNTHIA",
    root=Path("./data/synthia"),
    colors=CITYSCAPES_COLORS,
    class_of_id=CLASS_OF_ID,
    known_ids=None,
    dataset=Synthia,
    reader=FirstChannelReader(),
)
