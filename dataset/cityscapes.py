"""Cityscapes with its fine labels, and the 19 classes of its benchmark."""

from pathlib import Path

from dataset.base import Domain, SegmentationDataset
from dataset.labels import IGNORE

IMAGE_SUFFIX = "_leftImg8bit.png"
LABEL_SUFFIX = "_gtFine_labelIds.png"
# In train id order.
CITYSCAPES_COLORS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
THINGS = (  # what can be counted, RobotCar's names too
    *("traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle"),
    *("bicycle", "light", "sign", "automobile", "two-wheel"),
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # in train id order
CITYSCAPES_IDS = {label_id: train_id for train_id, label_id in enumerate(LABEL_IDS)}
CLASS_OF_ID = dict(zip(LABEL_IDS, CITYSCAPES_COLORS, strict=True))
KNOWN_IDS = (*range(35), IGNORE)  # Cityscapes' 0 to 33, GTA5's licence plate 34, 255 for no label


class Cityscapes(SegmentationDataset):
    """`leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_labelIds.png`."""

    image_suffixes = (IMAGE_SUFFIX,)

    @property
    def image_folder(self) -> Path:
        return self.root / "leftImg8bit" / self.split

    def own_label_path(self, name: str) -> Path:
        return self.root / "gtFine" / self.split / (name.removesuffix(IMAGE_SUFFIX) + LABEL_SUFFIX)


CITYSCAPES = Domain(
    name="cityscapes",
    prefix="Cityscapes",
    root=Path("./data/Cityscapes/data"),
    colors=CITYSCAPES_COLORS,
    class_of_id=CLASS_OF_ID,
    known_ids=KNOWN_IDS,
    dataset=Cityscapes,
    source_size=(640, 1280),
)
