"""Bad results for `report.py`: parts missing, damaged, of other classes or sizes, names that climb out."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bad_input.case import Case
from tests.bad_input.images import SPOILT as SPOILT_IMAGES
from tests.bad_input.images import at
from tests.bad_input.options_files import FILES
from tests.bad_input.world import GOOD, NAMES, RESULT

KIND = "results"
METRICS, IMAGES = "metrics.json", "images.csv"
NEEDED = ("means", "iou", "confusion", "void_predictions", "uncertainty", "restore_from", "data", "colors")
NEVER = {
    "null": None,
    "text": "x",
    "a number": -1,
    "a list": [1],
    "a mapping": {"a": 1},
    "a huge number": 10**400,
}
MAPS = [str(Path(NAMES[0]).with_suffix("")) + end for end in (".png", "_heatmap.png", "_score.png")]


def _json(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        metrics = json.loads(path.read_text())
        change(metrics)
        path.write_text(json.dumps(metrics))

    return spoil


def _set(*keys: object, value: object) -> Callable[[Path], object]:
    def change(metrics: dict) -> None:
        for key in keys[:-1]:
            metrics = metrics[key]
        metrics[keys[-1]] = value

    return _json(change)


def _without(key: str) -> Callable[[Path], object]:
    return _json(lambda metrics: metrics.pop(key))


def _rows(change: Callable[[list[list[str]]], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        change(rows)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    return spoil


def _cell(column: int, text: str) -> Callable[[Path], object]:
    return _rows(lambda rows: rows[1].__setitem__(column, text))


_NO_FILES = ("missing", "empty", "text", "a list", "a number", "binary", "zeros", "UTF-16", "JSON cut short")
OF_METRICS: dict[str, Callable[[Path], object]] = {
    **{what: FILES[what] for what in (*_NO_FILES, "an endless file", "a folder", "without rights")},
    "lists within lists": FILES["lists within lists"],
    **{f"no {key}": _without(key) for key in (*NEEDED, "classifiers")},
    **{
        f"{key}: {what}": _set(key, value=value)
        for key in (*NEEDED, "classifiers")
        for what, value in NEVER.items()
        if (key, what) not in (("uncertainty", "null"), ("restore_from", "text"))
    },
    "a class's score of text": _json(lambda m: m["iou"].update({next(iter(m["iou"])): "high"})),
    "a confusion of another size": _json(lambda m: m["confusion"].pop()),
    "a confusion of negative counts": _json(lambda m: m["confusion"][0].__setitem__(0, -1)),
    "a confusion of text": _json(lambda m: m["confusion"][0].__setitem__(0, "many")),
    "a colour out of range": _json(lambda m: m["colors"].update({next(iter(m["colors"])): [0, 0, 256]})),
    "a colour of a script": _json(lambda m: m["colors"].update({next(iter(m["colors"])): "red;}</style>"})),
    "data that are elsewhere": _set("data", "data_dir", value="/nowhere"),
    "data of an unknown set": _set("data", "target", value="nowhere"),
    "a data set that climbs out": _set("data", "set", value="../../../../outside"),
}
OF_IMAGES: dict[str, Callable[[Path], object]] = {
    **{
        what: FILES[what]
        for what in (*_NO_FILES[1:], "a folder", "without rights")
        if what != "JSON cut short"
    },
    "no rows": _rows(lambda rows: rows.__delitem__(slice(1, None))),
    "no head": _rows(lambda rows: rows.pop(0)),
    "a column less": _rows(lambda rows: [row.pop() for row in rows]),
    "a row cut short": _rows(lambda rows: rows[1].__delitem__(slice(1, None))),
    "pixels of text": _cell(1, "many"),
    "negative pixels": _cell(1, "-1"),
    "an accuracy of text": _cell(2, "high"),
    "an accuracy above 1": _cell(2, "7"),
    "an accuracy that is none": _cell(2, "nan"),
    "an infinite uncertainty": _cell(-1, "inf"),
    "an image of no set": _cell(0, "nowhere.png"),
    "a name that climbs out": _cell(0, "../../../../outside/image.png"),
    "an absolute name": _cell(0, "/etc/hostname"),
    "a row twice": _rows(lambda rows: rows.append(rows[1])),
}


def cases() -> Iterator[Case]:
    """Every spoilt part of a result, alone and beside a good one."""
    for what, spoil in OF_METRICS.items():
        yield Case(KIND, f"{METRICS}: {what}", "report", GOOD["report"], (), at(f"{RESULT}/{METRICS}", spoil))
    for what, spoil in OF_IMAGES.items():
        yield Case(KIND, f"{IMAGES}: {what}", "report", GOOD["report"], (), at(f"{RESULT}/{IMAGES}", spoil))
    # What is no file counts as removed; and the last bytes that some lack carry no pixels.
    no_maps = {
        what: spoil
        for what, spoil in SPOILT_IMAGES.items()
        if not what.startswith(("a folder", "a named pipe", "a link", "cut to 99.9", "a 16-bit"))
    }
    for name in MAPS:
        kind = name.rpartition("_")[2]
        for what, spoil in no_maps.items():
            named = (f"{RESULT}/{name}",)
            yield Case(
                KIND, f"{kind}: {what}", "report", GOOD["report"], named, at(f"{RESULT}/{name}", spoil)
            )


def accepted() -> Iterator[Case]:
    """A result whose pictures were removed to save room still has its numbers."""
    for name in MAPS:
        yield Case(
            "good input is accepted",
            f"no {name}",
            "report",
            GOOD["report"],
            (),
            at(f"{RESULT}/{name}", Path.unlink),
        )
