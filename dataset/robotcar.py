"""Oxford RobotCar: unlabelled training images, annotated validation images, nine classes."""

from pathlib import Path

from dataset.base import Domain, SegmentationDataset, prediction_name
from dataset.images import PICTURE_SUFFIXES, FirstChannelReader

# In train id order.
ROBOTCAR_COLORS = {
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "two-wheel": (119, 11, 32),
    "automobile": (0, 0, 142),
    "sign": (220, 220, 0),
    "light": (250, 170, 30),
    "building": (70, 70, 70),
    "sidewalk": (244, 35, 232),
    "road": (128, 64, 128),
}
CLASS_OF_ID = {
    1: "sky",
    2: "person",
    3: "two-wheel",
    4: "automobile",
    5: "sign",
    6: "light",
    7: "building",
    10: "sidewalk",
    **dict.fromkeys((11, 12, 13, 14, 17), "road"),
}
# Cityscapes' classes among the nine; the others (train too) have no class.
CLASS_OF_CITYSCAPES = {
    **{name: name for name in ("sky", "person", "building", "sidewalk", "road")},
    "rider": "person",
    **dict.fromkeys(("motorcycle", "bicycle"), "two-wheel"),
    **dict.fromkeys(("car", "truck", "bus"), "automobile"),
    "traffic sign": "sign",
    "traffic light": "light",
}
MIN_LABEL_VALUES = 4  # a crop must hold more label values than this
EVALUATION_SCALES = (1.0, 0.8)


class RobotCar(SegmentationDataset):
    """`train/<sequence>/*` and `val/*`, each validation image with `anno/<the same name>.png`."""

    image_suffixes = PICTURE_SUFFIXES

    @property
    def image_folder(self) -> Path:
        return self.root / self.split

    def own_label_path(self, name: str) -> Path:
        return self.root / "anno" / prediction_name(name)


ROBOTCAR = Domain(
    name="robotcar",
    prefix="RobotCar",
    root=Path("./data/Oxford_Robot_ICCV19"),
    colors=ROBOTCAR_COLORS,
    class_of_id=CLASS_OF_ID,
    known_ids=None,
    dataset=RobotCar,
    reader=FirstChannelReader(),
    target_size=(960, 1280),
    pseudo_size=(960, 1280),
)
