"""Your own data: a folder of pictures, or pictures and labels that a YAML description explains.

docs/own-data.md shows how to write a description. A mistake in one is reported in a line that names the file,
the key and what to write.
"""

import colorsys
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dataset.base import Domain, SegmentationDataset
from dataset.images import (
    PICTURE_SUFFIXES,
    ColorReader,
    DataError,
    FirstChannelReader,
    IdReader,
    LabelReader,
    scan,
)
from dataset.labels import IDS, IGNORE, Color, Colors
from dataset.transforms import Size
from dataset.yaml_file import load_yaml, shorten

DESCRIPTION_FILE = "dataset.yaml"  # in the folder of a data set
SPLIT = "{split}"  # placeholder in folder names
SPLIT_FOLDERS = ("train", "training", "trainval", "val", "valid", "validation", "test", "testing")
READERS = {"ids": IdReader(), "first-channel": FirstChannelReader(), "colors": None}  # depends on the colours
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SIDE = re.compile(r"\s*[1-9]\d{0,4}\s*")
HEX_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
MAX_WORD = 1000  # characters
MAX_CLASSES = IGNORE  # train ids 0 to 254
GOLDEN_RATIO = 0.618034  # multiples of it, modulo 1, are well spread hues for any number of classes
Labels = tuple[Colors, dict[int, str], list[int] | None, LabelReader]  # as in `Domain`


class FolderDataset(SegmentationDataset):
    """Pictures below one folder, labels with the same names below another.

    A folder without split folders, `images/` instead of `images/train/`, serves every split; so does a
    root that holds the pictures itself.

    Args:
        images, labels: folders below the root, with `{split}` for the split; `labels` is None without labels.
        image_suffix: of the images; None: any picture.
        label_suffix: what replaces it in the name of a label.
    """

    def __init__(
        self,
        *args,
        images: str,
        labels: str | None,
        image_suffix: str | None = None,
        label_suffix: str = ".png",
        **options,
    ):
        self.images, self.labels = images, labels
        self.image_suffix, self.label_suffix = image_suffix, label_suffix
        self.image_suffixes = (image_suffix,) if image_suffix else PICTURE_SUFFIXES
        super().__init__(*args, **options)
        first: dict[str, str] = {}
        for name in self.names.tolist():
            other = first.setdefault(os.path.splitext(name)[0], name)
            if other != name:
                raise DataError(
                    f"{self.image_folder}: {other} and {name} differ only in their suffix, so their "
                    "predictions would be one file; rename one or give a list"
                )

    @property
    def image_folder(self) -> Path:
        return self._folder(self.images)

    def scan(self) -> list[str]:
        """Names of the images; labels among or below them are left out, whatever their split."""
        if self.labels is None:
            return super().scan()
        labels = self._folder(self.labels)
        excluded = self.label_suffix if labels == self.image_folder else None
        folders = (labels, self.root / self.labels.partition(SPLIT)[0])
        return scan(self.image_folder, self.image_suffixes, excluded, folders)

    def own_label_path(self, name: str) -> Path | None:
        if self.labels is None:
            return None
        suffix = self.image_suffix or Path(name).suffix
        return self._folder(self.labels) / (name[: len(name) - len(suffix)] + self.label_suffix)

    def _folder(self, pattern: str) -> Path:
        """The folder of the split, or the one without splits if the set has none."""
        folder = self.root / pattern.replace(SPLIT, self.split)
        whole = self.root / pattern.partition(SPLIT)[0]
        undivided = SPLIT in pattern and not folder.is_dir() and whole.is_dir() and not has_splits(whole)
        return whole if undivided else folder


def has_splits(folder: Path) -> bool:
    """Whether a folder of images or labels has a folder for a split."""
    return any((folder / split).is_dir() for split in SPLIT_FOLDERS)


def read_domain(path: Path) -> Domain:
    """The domain in a description file, or in a folder with or without one.

    A folder without `dataset.yaml` holds pictures only: a target, which takes the classes of its source.

    Raises:
        DataError: there is no such file or folder, or the description has a mistake.
    """
    if path.is_dir():
        file = path / DESCRIPTION_FILE
        if os.path.lexists(file):
            return _read_description(file, str(path))
        name = os.path.basename(os.path.realpath(path))
        layout = {"images": _default_images(path), "labels": None}
        return _domain(str(path), name, path, layout, ({}, {}, [], IdReader()))
    if path.is_file():
        return _read_description(path, str(path))
    raise DataError(f"{path}: not a built-in data set, a description file or a folder")


def _default_images(root: Path) -> str:
    return f"images/{SPLIT}" if (root / "images").is_dir() else "."


def _domain(
    name: str, prefix: str, root: Path, layout: dict, labels: Labels, size: Size | None = None
) -> Domain:
    sizes = dict(source_size=size, target_size=size, pseudo_size=size) if size else {}
    # Without split folders, `{split}` alone stands for the root too: see FolderDataset.
    divided = SPLIT in layout["images"] and has_splits(root)
    bare = not Path(layout["images"].partition(SPLIT)[0]).parts and not divided
    colors, class_of_id, known_ids, reader = labels
    dataset = partial(FolderDataset, **layout)
    return Domain(name, prefix, root, colors, class_of_id, known_ids, dataset, reader, **sizes, bare=bare)


def _read_description(path: Path, name: str) -> Domain:
    try:
        values = load_yaml(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read this description ({error.strerror}); make it readable or name another"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid YAML ({error}); see docs/own-data.md") from error
    in_folder = path.name == DESCRIPTION_FILE
    default_name = os.path.basename(os.path.realpath(path.parent)) if in_folder else path.stem
    try:
        given = parse(values, KEYS)
        prefix = (given if "name" in given else parse({"name": default_name}, KEYS))["name"]
        labels = _labels(given.get("label-format", "ids"), given.get("classes"), given.get("ignore", Group()))
    except ValueError as error:
        raise DataError(f"{path}: {error}; see docs/own-data.md") from error
    root = path.parent / given.get("root", ".")
    layout = dict(
        images=given.get("images", _default_images(root)),
        labels=given.get("labels", f"labels/{SPLIT}"),
        image_suffix=given.get("image-suffix"),
        label_suffix=given.get("label-suffix", ".png"),
    )
    return _domain(name, prefix, root, layout, labels, given.get("size"))


# The meaning of the labels


@dataclass(frozen=True)
class Group:
    """The ids and colours of a class, or those to ignore; `others`: ignore every other id too."""

    ids: list[int] = field(default_factory=list)
    colors: list[Color] = field(default_factory=list)
    others: bool = False


def _labels(label_format: str, classes: dict[str, Group] | None, ignore: Group) -> Labels:
    if not classes:
        raise ValueError("classes: none are given; write one per line, such as  road: {ids: 7}")
    if label_format == "colors":
        return _color_labels(classes, ignore)
    for name, group in classes.items():
        if not group.ids:
            raise ValueError(f"classes: {name}: has no ids; write its label ids, such as ids: 7")
    class_of_id = _owners({name: group.ids for name, group in classes.items()}, ignore.ids, "id")
    chosen = _owners({name: group.colors[:1] for name, group in classes.items()}, (), "colour")
    drawn = _distinct_colors(len(classes), set(chosen))
    colors = {name: group.colors[0] if group.colors else next(drawn) for name, group in classes.items()}
    known = None if ignore.others else [*class_of_id, *ignore.ids, IGNORE]
    return colors, class_of_id, known, READERS[label_format]


def _color_labels(classes: dict[str, Group], ignore: Group) -> Labels:
    """Labels by colour: the id of a colour is its index among all colours."""
    if ignore.others:
        raise ValueError("ignore: others is for ids; list the ignored colours under colors")
    for name, group in classes.items():
        if not group.colors:
            raise ValueError(f"classes: {name}: has no colors; write its colours in the label files")
        if group.ids:
            raise ValueError(f"classes: {name}: has ids, but label-format is colors; remove the ids")
    owner = _owners({name: group.colors for name, group in classes.items()}, ignore.colors, "colour")
    every = tuple(dict.fromkeys((*owner, *ignore.colors)))
    class_of_id = {every.index(color): name for color, name in owner.items()}
    colors = {name: group.colors[0] for name, group in classes.items()}
    return colors, class_of_id, list(range(len(every))), ColorReader(every)


def _owners(groups: Mapping[str, Sequence], ignored: Sequence, what: str) -> dict:
    """The class of each id or colour, which may stand only once."""
    owner: dict = {}
    for name, values in groups.items():
        for value in values:
            if value in owner:
                raise ValueError(
                    f"classes: {name}: {what} {value} is listed already, for class {owner[value]}"
                )
            owner[value] = name
    for value in ignored:
        if value in owner:
            raise ValueError(f"ignore: {what} {value} is listed for class {owner[value]}; remove it from one")
    return owner


def _distinct_colors(count: int, taken: set[Color]) -> Iterator[Color]:
    """Colours for classes without one."""
    for index in range(2 * count + len(taken)):
        hue, value = index * GOLDEN_RATIO % 1, 0.95 if index % 2 else 0.7
        color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.65, value))
        if color not in taken:
            yield color


# The keys of a description: each has a function that checks its value and returns what it means


def parse(values: object, keys: Mapping[str, Callable]) -> dict:
    """The parsed values of a mapping; keys without a value are left out.

    Raises:
        ValueError: it is not a mapping, a key is unknown, or a value is wrong.
    """
    if not isinstance(values, dict):
        raise ValueError(f"write keys and values instead of {shorten(values)}")
    parsed = {}
    for key, value in values.items():
        if key not in keys:
            raise ValueError(f"unknown key {shorten(key)}; possible keys are {', '.join(keys)}")
        if value is not None or key == "color":
            try:
                parsed[key] = keys[key](value)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
    return parsed


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is not a word; write numbers in quotes")
    if not value.isprintable() or len(value) > MAX_WORD:
        raise ValueError(f"{shorten(value)} is not a file name")
    return value


def _name(value: object) -> str:
    if not NAME.fullmatch(_word(value)):
        raise ValueError(f"{shorten(value)} cannot name files; write only letters, digits and . _ -")
    return value


def _suffix(value: object) -> str:
    if "/" in _word(value) or "\\" in value:
        raise ValueError(f"{value!r} is not a suffix; put folders into images and labels")
    return value


def _label_format(value: object) -> str:
    if _word(value) not in READERS:
        raise ValueError(f"{value!r} is not one of {', '.join(READERS)}")
    return value


def _size(value: object) -> Size:
    """`1280,720` or [1280, 720], width and height, as (height, width)."""
    sides = value.split(",") if isinstance(value, str) else value
    valid = isinstance(sides, list) and len(sides) == 2 and all(type(side) in (int, str) for side in sides)
    if not valid or not all(SIDE.fullmatch(str(side)) for side in sides):
        raise ValueError(f"{shorten(value)} is not a size; write width,height such as 1280,720")
    return int(sides[1]), int(sides[0])


def _ids(value: object) -> list[int]:
    ids = value if isinstance(value, list) else [value]
    for number in ids:
        if type(number) is not int or not 0 <= number < IDS:
            raise ValueError(f"{shorten(number)} is not a whole number from 0 to {IDS - 1}")
    return ids


def _color(value: object) -> Color:
    if isinstance(value, str) and HEX_COLOR.fullmatch(value):
        return tuple(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value):
        return tuple(value)
    raise ValueError(f'{shorten(value)} is not a colour; write [red, green, blue] or "#rrggbb" in quotes')


def _colors(value: object) -> list[Color]:
    if not isinstance(value, list):
        raise ValueError(f"write a list of colours instead of {shorten(value)}")
    return [_color(color) for color in value]


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"write true or false instead of {shorten(value)}")
    return value


def _class(name: object, value: object) -> Group:
    try:
        given = parse(value, {"ids": _ids, "color": _color, "colors": _colors})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    first = [given["color"]] if "color" in given else []
    return Group(given.get("ids", []), first + given.get("colors", []))


def _classes(value: object) -> dict[str, Group]:
    if not isinstance(value, dict):
        raise ValueError(f"write one class per line, such as  road: {{ids: 7}}, instead of {shorten(value)}")
    if len(value) > MAX_CLASSES:
        raise ValueError(f"{len(value)} classes are too many; at most {MAX_CLASSES} are possible")
    return {str(name): _class(name, group) for name, group in value.items()}


def _ignore(value: object) -> Group:
    if value == "others":
        return Group(others=True)
    return Group(**parse(value, {"ids": _ids, "colors": _colors, "others": _flag}))


KEYS = {
    "name": _name,
    "root": _word,
    "images": _word,
    "labels": _word,
    "image-suffix": _suffix,
    "label-suffix": _suffix,
    "label-format": _label_format,
    "size": _size,
    "classes": _classes,
    "ignore": _ignore,
}
