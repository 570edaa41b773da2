"""Bad labels, pseudo labels and predictions: missing, of another size or mode, ids that no class has."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bad_input.case import Case
from tests.bad_input.images import SPOILT as SPOILT_FILES
from tests.bad_input.images import at
from tests.bad_input.world import CITYSCAPES, GOOD, GTA5, NAMES, OWN, PREDICTED, RUN_FILES, SCORING, SIZE

KIND = "labels"
HEIGHT, WIDTH = SIZE
GONE = ("a folder", "a named pipe", "a link to nothing", "a link to itself", "a link to a device")
GONE += ("a link to an endless device",)
READABLE = ("a float TIFF",)  # as images; see below what labels are refused for


def _saved(ids: np.ndarray, form: str = "PNG") -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        file = io.BytesIO()
        Image.fromarray(ids).save(file, form)
        path.write_bytes(file.getvalue())

    return spoil


def _grey(value: int, height: int = HEIGHT, width: int = WIDTH, kind: type = np.uint8) -> np.ndarray:
    return np.full((height, width), value, kind)


# By the header alone.
SIZES = {
    "one row more": _saved(_grey(7, HEIGHT + 1)),
    "one column less": _saved(_grey(7, HEIGHT, WIDTH - 1)),
    "turned": _saved(_grey(7, WIDTH, HEIGHT)),
    "half as large": _saved(_grey(7, HEIGHT // 2, WIDTH // 2)),
    "one pixel": _saved(_grey(7, 1, 1)),
}
MODES = {
    "in colours": _saved(np.zeros((*SIZE, 3), np.uint8)),
    "in colours with alpha": _saved(np.zeros((*SIZE, 4), np.uint8)),
    "grey with alpha": _saved(np.zeros((*SIZE, 2), np.uint8)),
    "a colour JPEG": _saved(np.zeros((*SIZE, 3), np.uint8), "JPEG"),
    "a float TIFF": _saved(np.zeros(SIZE, np.float32), "TIFF"),
}
# By decoding.
IDS = {
    "an id of no class": _saved(_grey(77)),
    "a 16-bit id of no class": _saved(_grey(700, kind=np.uint16)),
    "the largest 16-bit id": _saved(_grey(65535, kind=np.uint16)),
    "a negative id": _saved(_grey(-1, kind=np.int32), "TIFF"),
    "an id beyond 16 bits": _saved(_grey(70000, kind=np.int32), "TIFF"),
}
_TRAIN = f"{CITYSCAPES}/gtFine/train/{NAMES[0].replace('leftImg8bit', 'gtFine_labelIds')}"
# Whose label -> the script, its flags, the file, what may be left, whether it may be missing.
READERS = {
    "source": ("train_ms", GOOD["train_ms"], f"{GTA5}/labels/00002.png", RUN_FILES, False),
    "target": ("train_ms", GOOD["train_ms"], _TRAIN, RUN_FILES, True),
    "own": ("train_ms", (*GOOD["train_ms"], *OWN), "own/labels/train/0.png", RUN_FILES, False),
    "pseudo": (
        *("train_ft", GOOD["train_ft"], f"{CITYSCAPES}/pseudo_FULL/train/{NAMES[0]}"),
        *(RUN_FILES, False),
    ),
    "evaluation": (
        *("evaluate_cityscapes", GOOD["evaluate_cityscapes"], _TRAIN.replace("/train/", "/val/")),
        *(PREDICTED, False),
    ),
    "prediction": ("evaluate_cityscapes", SCORING, f"predictions/{NAMES[0]}", (), False),
    "survey": ("check_data", GOOD["check_data"], f"{GTA5}/labels/00002.png", (), False),
}


def cases() -> Iterator[Case]:
    """Every spoilt label in every place where a script reads one."""
    for reader, (script, flags, place, adds, optional) in READERS.items():
        named = ("gta5",) if script == "check_data" else (place,)
        files = {what: spoil for what, spoil in SPOILT_FILES.items() if not what.startswith("a 16-bit")}
        for what, spoil in (files | SIZES | MODES | IDS | {"gone": Path.unlink}).items():
            if optional and (what in GONE or what == "gone"):
                continue
            yield Case(KIND, f"{reader}: {what}", script, flags, named, at(place, spoil), adds=adds)


def accepted() -> Iterator[Case]:
    """Labels that are unusual, and fine."""
    for what, ids in {"16 bits": _grey(7, kind=np.uint16), "one class": _grey(7)}.items():
        script, flags, place, *_ = READERS["source"]
        yield Case("good input is accepted", f"source: {what}", script, flags, (), at(place, _saved(ids)))
    script, flags, place, *_ = READERS["target"]
    yield Case("good input is accepted", "target: no label", script, flags, (), at(place, Path.unlink))
