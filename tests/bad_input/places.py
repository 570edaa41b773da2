"""Bad places: files where folders belong, no rights, full disks, files that vanish while a script runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from dataset.base import SegmentationDataset
from tests.bad_input.case import Case, full_disk
from tests.bad_input.images import READERS, TRAIN_IMAGE, at
from tests.bad_input.world import (
    CITYSCAPES,
    GOOD,
    GTA5,
    PREDICTED,
    RESULT,
    RUN,
    RUN_FILES,
    SCORING,
    SNAPSHOT,
    TRAINING,
)

KIND = "places"


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file\n")


def _closed(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o500)


def _link_to_itself(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)


# What stands where a script is to write a folder, relative to the folder.
FOLDERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a file": ("", _file),
    "a file above": ("..", _file),
    "without rights": ("", _closed),
    "without rights above": ("..", _closed),
    "a link to itself": ("", _link_to_itself),
}
WRITERS = {
    "snapshots": ("train_ms", TRAINING, "--snapshot-dir"),
    "fine-tuned snapshots": ("train_ft", TRAINING, "--snapshot-dir"),
    "TensorBoard": ("train_ms", TRAINING, "--log-dir"),
    "pseudo labels": ("generate_plabel_cityscapes", GOOD["generate_plabel_cityscapes"], "--save"),
    "an evaluation": ("evaluate_cityscapes", GOOD["evaluate_cityscapes"], "--save"),
    "scores": ("evaluate_cityscapes", SCORING, "--save"),
    "pictures": ("segment", GOOD["segment"], "--save"),
}
WRITTEN_FILES = {
    "a page": ("report", GOOD["report"], "--save"),
    "a network": ("export_onnx", GOOD["export_onnx"], "--save"),
}
# Folders that scripts read.
READ = {
    "source": ("train_ms", GOOD["train_ms"], GTA5),
    "source's images": ("train_ms", GOOD["train_ms"], f"{GTA5}/images"),
    "target": ("train_ms", GOOD["train_ms"], CITYSCAPES),
    "target's images": ("train_ms", GOOD["train_ms"], f"{CITYSCAPES}/leftImg8bit"),
    "pseudo labels": ("train_ft", GOOD["train_ft"], f"{CITYSCAPES}/pseudo_FULL"),
    "images to predict": ("generate_plabel_cityscapes", GOOD["generate_plabel_cityscapes"], CITYSCAPES),
    "images to evaluate": ("evaluate_cityscapes", GOOD["evaluate_cityscapes"], CITYSCAPES),
    "labels to evaluate": ("evaluate_cityscapes", GOOD["evaluate_cityscapes"], f"{CITYSCAPES}/gtFine"),
    "predictions": ("evaluate_cityscapes", SCORING, "predictions"),
    "a set": ("check_data", GOOD["check_data"], GTA5),
    "a snapshot": ("segment", GOOD["segment"], str(Path(SNAPSHOT).parent)),
    "a result": ("report", GOOD["report"], RESULT),
    "a run": ("train_ms", (*TRAINING, "--snapshot-dir", RUN, "--resume"), RUN),
}
GONE: dict[str, Callable[[Path], object]] = {
    "elsewhere": lambda path: path.rename(path.with_name("elsewhere")),
    "a file": lambda path: (path.rename(path.with_name("elsewhere")), _file(path)),
    "without rights": lambda path: path.chmod(0),
    "a link to nothing": lambda path: (path.rename(path.with_name("elsewhere")), path.symlink_to("nowhere")),
    "a link to itself": lambda path: (path.rename(path.with_name("elsewhere")), _link_to_itself(path)),
}
# Bytes that a file may have, and so where a disk is full: at the flags, in a snapshot, in a state.
FULL = {
    "at 1 kB": (1000, tuple(s for s in GOOD if s not in ("check_data", "tables", "demo"))),
    "at 100 kB": (100_000, ("train_ms", "train_ft", "export_onnx")),
    "at 300 kB": (300_000, ("train_ms", "train_ft")),
}
SMALL = ("log", "log/*", "snapshots/new", "snapshots/new/*")


def _vanishing(path: str) -> Callable[[], None]:
    """The file is there while the set is checked, and gone when it is read."""

    def within() -> None:
        check = SegmentationDataset.check

        def check_and_remove(self, *args, **options):
            found = check(self, *args, **options)
            Path(path).unlink(missing_ok=True)
            return found

        mock.patch.object(SegmentationDataset, "check", check_and_remove).start()

    return within


def cases() -> Iterator[Case]:
    """Every obstacle in every place."""
    for writer, (script, good, flag) in WRITERS.items():
        for what, (where, make) in FOLDERS.items():
            place = f"places/{writer}/new"
            spoil = at(str(Path(place).parent if where else place), make)
            yield Case(
                *(KIND, f"{writer}: {what}", script, (*good, flag, place), (f"places/{writer}",), spoil),
                adds=(*RUN_FILES, *PREDICTED),
            )
    for writer, (script, good, flag) in WRITTEN_FILES.items():
        for what, make in {"a folder": Path.mkdir, "a folder without rights": _closed}.items():
            named, adds = ("written",), ("written",)
            yield Case(
                KIND, f"{writer}: {what}", script, (*good, flag, "written"), named, at("written", make)
            )
        yield Case(
            *(KIND, f"{writer}: a file above", script, (*good, flag, "street.png/written"), ("street.png",)),
        )
        yield Case(
            *(KIND, f"{writer}: no rights above", script, (*good, flag, "places/written"), ("places",)),
            at("places", _closed),
        )
    for reader, (script, flags, place) in READ.items():
        for what, spoil in GONE.items():
            if reader == "a run" and what in ("elsewhere", "a link to nothing"):
                continue  # then there is nothing to go on with, and the run starts
            yield Case(KIND, f"{reader}: {what}", script, flags, (), at(place, spoil), adds=PREDICTED)
    for what, (limit, scripts) in FULL.items():
        for script in dict.fromkeys(scripts):
            yield Case(
                *(KIND, f"a disk full {what}", script, GOOD[script], ()),
                within=full_disk(limit),
                adds=(*SMALL, *PREDICTED),
            )
    for reader in ("source", "target", "predicted"):
        script, flags, place, adds = READERS[reader]
        yield Case(
            *(KIND, f"{reader}: an image that vanishes", script, flags, (Path(place).name,)),
            within=_vanishing(place),
            adds=adds,
            takes=(place,),
        )
    yield Case(
        *(KIND, "pseudo labels: an image that vanishes", "train_ft", GOOD["train_ft"], ()),
        within=_vanishing(TRAIN_IMAGE),
        adds=RUN_FILES,
        takes=(TRAIN_IMAGE,),
    )


def accepted() -> Iterator[Case]:
    """Folders that are not there yet are made."""
    for writer, (script, good, flag) in WRITERS.items():
        place = f"places/{writer}/new"
        yield Case("good input is accepted", f"{writer}: a new folder", script, (*good, flag, place), ())
