"""Your own data: folders of pictures and labels, as a description says or in the stated layout."""

import os
from dataclasses import dataclass
from pathlib import Path

from dataset.base import SegmentationDataset
from dataset.images import DataError, picture_suffixes

USUAL_PARTS = ("train", "training", "trainval", "val", "valid", "validation", "test", "testing")
SPLIT = "{split}"  # stands for the part of the data set in a folder's name


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie below the root of a data set.

    `images`, `labels`: folders, in which `{split}` stands for the part (train, val); no `labels`: there are
    none. `image_suffix`: ending of the images, None for every picture. `label_suffix`: what takes its place
    in the label's name.
    """

    images: str = "images/{split}"
    labels: str | None = "labels/{split}"
    image_suffix: str | None = None
    label_suffix: str = ".png"


class FolderDataset(SegmentationDataset):
    """Pictures of any format below one folder, labels of the same names below another.

    A folder without parts, `images/` in place of `images/train/`, serves every split; so does one that
    holds the pictures itself.
    """

    def __init__(self, *args, layout: Layout, **options):
        self.layout = layout
        if layout.image_suffix:
            self.image_suffixes = (layout.image_suffix,)
        else:
            self.image_suffixes = picture_suffixes()
        super().__init__(*args, **options)
        self._refuse_doubles()

    @property
    def image_folder(self) -> Path:
        return self._folder(self.layout.images)

    @property
    def excluded_suffix(self) -> str | None:
        """Labels that lie among the images are no images."""
        if self.layout.labels is None:
            return None
        together = self._folder(self.layout.images) == self._folder(self.layout.labels)
        return self.layout.label_suffix if together else None

    @property
    def excluded_folders(self) -> tuple[Path, ...]:
        """Labels in a folder below the images are no images, of whatever split."""
        if self.layout.labels is None:
            return ()
        every_split = self.root / self.layout.labels.partition(SPLIT)[0]
        return (every_split, self._folder(self.layout.labels))

    def own_label_path(self, name: str) -> Path | None:
        if self.layout.labels is None:
            return None
        suffix = self.layout.image_suffix or Path(name).suffix
        stem = name[: -len(suffix)] if suffix else name
        return self._folder(self.layout.labels) / (stem + self.layout.label_suffix)

    def _folder(self, pattern: str) -> Path:
        """The split's folder; the one without parts where the set has none."""
        folder = self.root / pattern.replace(SPLIT, self.split)
        whole = self.root / pattern.partition(SPLIT)[0]
        if SPLIT in pattern and not folder.is_dir() and whole.is_dir() and not has_parts(whole):
            folder = whole
        return folder

    def _refuse_doubles(self) -> None:
        """Two images whose predictions would be one file are a mistake that would show too late."""
        seen: dict[str, str] = {}
        for name in self.names:
            stem = os.path.splitext(name)[0]
            if seen.get(stem, name) != name:
                raise DataError(
                    f"{self.image_folder}: {seen[stem]} and {name} differ in their ending alone, so their "
                    "predictions would be one file; rename one or give a list"
                )
            seen[stem] = name


def has_parts(folder: Path) -> bool:
    """Whether a folder of images or labels is divided into the usual parts."""
    return any((folder / part).is_dir() for part in USUAL_PARTS)
