"""Bad descriptions of own data: no YAML, carrying code, growing without end, mistakes, folders outside."""

from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from tests.bad_input import hostile
from tests.bad_input.case import Case
from tests.bad_input.images import at
from tests.bad_input.options_files import FILES
from tests.bad_input.world import DESCRIPTION, GOOD, OWN, OWN_CLASSES

KIND = "descriptions of own data"
WRONG = {"a list": [1], "a mapping": {"a": 1}, "a number": 7, "true": True, "a date": "!date"}
CLASSES = {
    **{"none": {}, "null": None, "a list": ["road"], "a word": "road", "a number": 3},
    "nothing in one": {"road": None},
    "a number for one": {"road": 7},
    "an unknown key": {"road": {"id": 7}},
    "no ids": {"road": {"color": [0, 0, 0]}},
    **{
        f"ids {ids!r}": {"road": {"ids": ids}}
        for ids in (-1, 65536, 10**30, "7", 7.5, True, [], [7, 7], [[7]], {"a": 7}, None, [None])
    },
    "an id of two classes": {"road": {"ids": 7}, "car": {"ids": [8, 7]}},
    "a colour of two classes": {n: {"ids": i, "color": [1, 2, 3]} for i, n in enumerate("ab")},
    **{
        f"colour {color!r}": {"road": {"ids": 7, "color": color}}
        for color in (
            [0, 0],
            [0, 0, 256],
            [0, 0, -1],
            [0.5, 0, 0],
            "red",
            "#12345",
            "#gggggg",
            7,
            {"r": 1},
            True,
        )
    },
    "300 classes": {f"class {n}": {"ids": n} for n in range(300)},
}
VALUES: dict[str, dict[str, object]] = {
    "name": {
        "a path": "a/b",
        "up": "..",
        "hidden": ".a",
        "spaces": "a b",
        "empty word": "-",
        "a zero byte": "a\0b",
    },
    "root": {"nowhere": "nowhere", "a file": "dataset.yaml", "a zero byte": "a\0b", "too long": "r" * 5000},
    "images": {"nowhere": "nowhere", "a file": "dataset.yaml", "a zero byte": "a\0b", "too long": "i" * 5000},
    "labels": {"nowhere": "nowhere", "a zero byte": "a\0b", "too long": "l" * 5000},
    "image-suffix": {"of no file": ".xyz", "a zero byte": "\0.png"},
    "label-suffix": {"of no file": ".xyz", "a zero byte": "\0.png", "up": "/../../../outside/image.png"},
    "label-format": {"unknown": "rgb", "colours without colours": "colors", "a zero byte": "ids\0"},
    "size": {
        **{"one side": "100", "three sides": "1,2,3", "nothing": "0,0", "negative": "-8,8", "words": "a,b"},
        **{
            "huge": f"{10**30},8",
            "a fraction": "8.5,8",
            "a list of lists": [[8], 8],
            "empty": [],
            "true": True,
        },
    },
    "ignore": {
        **{"a word": "all", "a number": 7, "a list": [7], "an unknown key": {"id": 7}, "an id": {"ids": "x"}},
        **{"a class's id": {"ids": 7}, "others as a word": {"others": "yes"}, "a huge id": {"ids": 10**30}},
    },
    "unknown": {"a key": 1, "a list": [1]},
}


def _description(**changed: object) -> Callable[[Path], object]:
    content = {"classes": OWN_CLASSES, "ignore": {"ids": 0}} | changed
    return lambda path: path.write_text(yaml.safe_dump(content))


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


# The same files as for opts.yaml, but what is only missing or only added to them.
_FILES = {
    what: spoil
    for what, spoil in FILES.items()
    if what not in ("missing", "a folder") and "value" not in what
}
BROKEN: dict[str, Callable[[Path], object]] = {
    **_FILES,
    "a key twice": _text("classes: {road: {ids: 7}}\nclasses: {car: {ids: 7}}\n"),
    "a class twice": _text("classes:\n  road: {ids: 7}\n  road: {ids: 8}\n"),
    "classes of 10^30 words": _text(f"{hostile.yaml_laughs()}classes: {{road: {{ids: *a29}}}}\n"),
    "ids of 10^30 words": _text(
        "classes:\n  road:\n    ids:\n    - &a0 [ha, ha]\n"
        + "".join(f"    - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    ),
    **{
        f"{what} of 10^30 words": _text(f"{hostile.yaml_laughs()}{line}")
        for what, line in {
            "a colour": "classes: {road: {ids: 7, color: *a29}}",
            "colours": "classes: {road: {ids: 7, colors: {k: *a29}}}",
            "a size": "size: [*a29, 1]",
            "a name": "name: *a29",
        }.items()
    },
    "an id of 5000 hexadecimal digits": _text(f"classes: {{road: {{ids: 0x{'f' * 5000}}}}}\n"),
    "an id in base 60": _text(f"classes: {{road: {{ids: {':'.join(['1'] * 5000)}}}}}\n"),
    "code as a class": _text(f"classes: {{road: {hostile.YAML_CODE['apply']}}}\n"),
    "a class with control codes": _text('classes: {"a\\e[2J\\nb": {ids: -1}}\n'),
    **{f"classes: {what}": _description(classes=value) for what, value in CLASSES.items()},
    **{
        f"{key}: {what}": _description(**{key: value})
        for key, values in VALUES.items()
        for what, value in values.items()
    },
    **{
        f"{key}: {what}": _description(**{key: value})
        for key in ("name", "root", "images", "labels", "image-suffix", "label-suffix", "label-format")
        for what, value in WRONG.items()
        if not isinstance(value, str)
    },
}
READERS = {
    "check_data": ("own", "--num-workers", "0"),
    "train_ms": (*GOOD["train_ms"], *OWN),
    "generate_plabel_cityscapes": (
        *GOOD["generate_plabel_cityscapes"],
        *("--restore-from", "snapshots/own/own_4.pth", "--target", "own", "--data-dir", "own"),
    ),
}


def cases() -> Iterator[Case]:
    """Every spoilt description in every script that reads one."""
    for script, flags in READERS.items():
        for what, spoil in BROKEN.items():
            # Only training on it needs labels, and a root that is not its own is named by --data-dir.
            if what.startswith(("labels: nowhere", "label-suffix: of no file")) and script != "train_ms":
                continue
            if what in ("root: nowhere", "root: a file") and script != "check_data":
                continue
            yield Case(KIND, what, script, flags, ("own",), at(DESCRIPTION, spoil))


def accepted() -> Iterator[Case]:
    """Descriptions that say the same in other words."""
    for what, spoil in {
        "a description with a byte order mark": _text(
            "\ufeff" + yaml.safe_dump({"classes": OWN_CLASSES, "ignore": "others"})
        ),
        "a description with a reference": _text(
            "classes:\n  road: {ids: &seven 7}\n  car: {ids: [26, 27]}\n"
            "  person: {ids: 24}\nignore: {ids: [0, 0x1]}\n"
        ),
        "a description with folders by name": _description(root=".", images="images/{split}", size=[96, 48]),
    }.items():
        yield Case(
            "good input is accepted", what, "check_data", READERS["check_data"], (), at(DESCRIPTION, spoil)
        )
