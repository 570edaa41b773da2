"""Descriptions of your own data: one readable YAML file a data set, or a folder in the stated layout.

The page docs/own-data.md shows how to write one. Every mistake in it is one line that names the file, the
class and what to do.
"""

import colorsys
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dataset.domains import Domain
from dataset.folder import SPLIT, FolderDataset, Layout, has_parts
from dataset.images import ColorReader, DataError, FirstChannelReader, IdReader
from dataset.labels import IDS, IGNORE, Color, Colors
from dataset.transforms import Size
from dataset.yaml_file import load_yaml, shorten

DESCRIPTION_FILE = "dataset.yaml"  # of a folder
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
READERS = {"ids": IdReader(), "first-channel": FirstChannelReader(), "colors": None}
KEYS = (
    *("name", "root", "images", "labels", "image-suffix", "label-suffix", "label-format"),
    *("size", "classes", "ignore"),
)
CLASS_KEYS = ("ids", "color", "colors")
IGNORE_KEYS = ("ids", "colors", "others")
MAX_WORD = 1000  # characters
MAX_CLASSES = IGNORE  # train ids 0 ... 254
GOLDEN_RATIO = 0.618034  # steps of the hue that stay apart however many there are


def read_domain(path: Path) -> Domain:
    """The domain of a description file, or of a folder with or without one.

    A folder without `dataset.yaml` is pictures alone: a target that takes its classes from the source.

    Raises:
        DataError: there is no such file or folder, or the description has a mistake.
    """
    if path.is_dir():
        if os.path.lexists(path / DESCRIPTION_FILE):
            return _described(path / DESCRIPTION_FILE, str(path))
        return _pictures(path)
    if path.is_file():
        return _described(path, str(path))
    raise DataError(f"{path}: is no data set that is built in, no description file and no folder")


def _pictures(folder: Path) -> Domain:
    images = f"images/{SPLIT}" if (folder / "images").is_dir() else "."
    layout = Layout(images=images, labels=None)
    name = os.path.basename(os.path.realpath(folder))
    return _domain(str(folder), name, folder, layout, {}, {}, (), IdReader(), None)


def _described(path: Path, name: str) -> Domain:
    """The domain that a description file tells of; `name` is what the flag said."""
    text = _Checked(path, _load(path), "the description")
    text.only(KEYS)
    default_name = (
        os.path.basename(os.path.realpath(path.parent)) if path.name == DESCRIPTION_FILE else path.stem
    )
    prefix = text.string("name", default_name)
    if not NAME.fullmatch(prefix):
        raise text.error(f"name {prefix!r} names files; write letters, digits and . _ - only")
    root = path.parent / text.string("root", ".")
    layout = Layout(
        text.string("images", f"images/{SPLIT}" if (root / "images").is_dir() else "."),
        text.string("labels", Layout.labels),
        text.suffix("image-suffix", "") or None,
        text.suffix("label-suffix", Layout.label_suffix),
    )
    form = text.string("label-format", "ids")
    if form not in READERS:
        raise text.error(f"label-format {form!r} is none of {', '.join(READERS)}")
    classes = text.mapping("classes")
    if not classes:
        raise text.error("classes names no class; write one a line, such as  road: {ids: 7}")
    if len(classes) > MAX_CLASSES:
        raise text.error(f"classes names {len(classes)} classes; at most {MAX_CLASSES} are possible")
    ignored = text.get("ignore", {})
    ignored = _Checked(path, {"others": True} if ignored == "others" else ignored, "ignore")
    ignored.only(IGNORE_KEYS)
    parts = {str(n): _Checked(path, c, f"class {n}") for n, c in classes.items()}
    for part in parts.values():
        part.only(CLASS_KEYS)
    if form == "colors":
        colors, class_of_id, known, reader = _by_colors(parts, ignored)
    else:
        colors, class_of_id, known = _by_ids(parts, ignored)
        reader = READERS[form]
    if ignored.flag("others"):
        known = None
        if form == "colors":
            raise ignored.error("others is for ids; list the colours that are ignored under colors")
    return _domain(name, prefix, root, layout, colors, class_of_id, known, reader, text.size("size"))


def _domain(name, prefix, root, layout, colors, class_of_id, known, reader, size: Size | None) -> Domain:
    sizes = dict(source_size=size, target_size=size, pseudo_size=size) if size else {}
    dataset = partial(FolderDataset, layout=layout)
    # Without folders of parts, `{split}` stands for the root too: see FolderDataset.
    divided = SPLIT in layout.images and has_parts(root)
    bare = not Path(layout.images.partition(SPLIT)[0]).parts and not divided
    return Domain(name, prefix, root, colors, class_of_id, known, dataset, reader, **sizes, bare=bare)


def _by_ids(parts: "dict[str, _Checked]", ignored: "_Checked") -> tuple[Colors, dict[int, str], list[int]]:
    """Classes of id labels: their colours, the class of each id, every id that may occur."""
    class_of_id: dict[int, str] = {}
    for name, part in parts.items():
        ids = part.ids()
        if not ids:
            raise part.error("has no ids; write which numbers in the label files mean it, such as ids: 7")
        for number in ids:
            if number in class_of_id:
                raise part.error(
                    f"id {number} is of class {class_of_id[number]} already; an id has one class"
                )
            class_of_id[number] = name
    for number in ignored.ids():
        if number in class_of_id:
            raise ignored.error(f"id {number} is of class {class_of_id[number]}; it cannot be ignored too")
    shown = {name: part.colors()[:1] for name, part in parts.items()}
    _refuse_shared(parts, shown)
    drawn = _distinct_colors(len(parts), {c for colors in shown.values() for c in colors})
    colors = {name: given[0] if given else next(drawn) for name, given in shown.items()}
    return colors, class_of_id, [*class_of_id, *ignored.ids(), IGNORE]


def _by_colors(
    parts: "dict[str, _Checked]", ignored: "_Checked"
) -> tuple[Colors, dict[int, str], list[int], ColorReader]:
    """Classes of colour labels; an id is the place of a colour among all."""
    given = {name: part.colors() for name, part in parts.items()}
    for name, colors in given.items():
        if not colors:
            raise parts[name].error("has no colors; write which colours in the label files mean it")
        if parts[name].ids():
            raise parts[name].error("has ids, but label-format is colors; leave the ids out")
    owner = _refuse_shared(parts, given)
    for color in ignored.colors():
        if color in owner:
            raise ignored.error(f"colour {color} is of class {owner[color]}; leave it to one of the two")
    every = [*owner, *dict.fromkeys(ignored.colors())]
    class_of_id = {every.index(color): name for color, name in owner.items()}
    shown = {name: colors[0] for name, colors in given.items()}
    return shown, class_of_id, list(range(len(every))), ColorReader(tuple(every))


def _refuse_shared(parts: "dict[str, _Checked]", colors: Mapping[str, list[Color]]) -> dict[Color, str]:
    """The class of each colour; two classes of one colour are a mistake."""
    owner: dict[Color, str] = {}
    for name, given in colors.items():
        for color in given:
            if color in owner:
                raise parts[name].error(f"colour {color} is of class {owner[color]} already")
            owner[color] = name
    return owner


def _distinct_colors(count: int, taken: set[Color]):
    """Colours that nobody chose, for classes without one."""
    for index in range(2 * count + len(taken)):
        hue, value = index * GOLDEN_RATIO % 1, 0.95 if index % 2 else 0.7
        color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.65, value))
        if color not in taken:
            yield color


def _load(path: Path) -> object:
    try:
        return load_yaml(path, unique_keys=True)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read this description ({error.strerror}); make it readable or name another"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: is no YAML ({error}); see docs/own-data.md") from error


class _Checked:
    """A mapping in the description whose values are checked as they are read."""

    def __init__(self, path: Path, values: object, where: str):
        self.path, self.where = path, where
        if not isinstance(values, dict):
            raise self.error(f"is {shorten(values)}, not a list of keys and values; see docs/own-data.md")
        self.values = values

    def error(self, message: str) -> DataError:
        where = "" if ";" in message else "; see docs/own-data.md"
        return DataError(f"{self.path}: {self.where}: {message}{where}")

    def only(self, keys: tuple[str, ...]) -> None:
        unknown = [key for key in self.values if key not in keys]
        if unknown:
            raise self.error(f"the key {shorten(unknown[0])} is unknown; possible are {', '.join(keys)}")

    def get(self, key: str, default: object) -> object:
        value = self.values.get(key)
        return default if value is None else value

    def string(self, key: str, default: str) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key} is {shorten(value)}; write a word, in quotes if it is a number")
        if not value.isprintable() or len(value) > MAX_WORD:
            raise self.error(f"{key} is {shorten(value)}; that is no name of a file")
        return value

    def suffix(self, key: str, default: str) -> str:
        """The end of a file's name."""
        value = self.string(key, default)
        if "/" in value or "\\" in value:
            raise self.error(
                f"{key} is {value!r}; write an ending of file names, and folders under images and labels"
            )
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {shorten(value)}; write true or false")
        return value

    def mapping(self, key: str) -> dict:
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} is {shorten(value)}; write one class a line, such as  road: {{ids: 7}}")
        return value

    def ids(self) -> list[int]:
        """`ids: 7` or `ids: [7, 8]`; distinct, in order."""
        value = self.get("ids", [])
        value = value if isinstance(value, list) else [value]
        for number in value:
            if type(number) is not int or not 0 <= number < IDS:
                raise self.error(f"the id {shorten(number)} is no whole number from 0 to {IDS - 1}")
        return self._once(value, "id")

    def colors(self) -> list[Color]:
        """`color: [128, 64, 128]` or "#804080", or several as `colors`; distinct, in order."""
        several = self.get("colors", [])
        if not isinstance(several, list):
            raise self.error(f"colors is {shorten(several)}; write a list of colours")
        one = self.get("color", None)
        if "color" in self.values and one is None:
            raise self.error('color is empty; a # begins a remark, so write "#rrggbb" in quotes')
        return self._once(
            [*([] if one is None else [self._color(one)]), *map(self._color, several)], "colour"
        )

    def _color(self, value: object) -> Color:
        if isinstance(value, str) and re.fullmatch(r"#[0-9A-Fa-f]{6}", value):
            return tuple(bytes.fromhex(value[1:]))
        if (
            isinstance(value, list)
            and len(value) == 3
            and all(type(c) is int and 0 <= c <= 255 for c in value)
        ):
            return tuple(value)
        raise self.error(
            f'{shorten(value)} is no colour; write [red, green, blue] from 0 to 255 or "#rrggbb"'
        )

    def _once(self, values: list, what: str) -> list:
        for index, value in enumerate(values):
            if value in values[:index]:
                raise self.error(f"{what} {value} stands twice")
        return values

    def size(self, key: str) -> Size | None:
        """`size: 1280,720` or [1280, 720], width and height, as (height, width)."""
        value = self.get(key, None)
        if value is None:
            return None
        sides = value.split(",") if isinstance(value, str) else value
        if (
            not isinstance(sides, list)
            or len(sides) != 2
            or not all(type(s) in (int, str) for s in sides)
            or not all(re.fullmatch(r"\s*[1-9]\d{0,4}\s*", str(s)) for s in sides)
        ):
            raise self.error(f"{key} is {shorten(value)}; write width,height such as 1280,720")
        return int(sides[1]), int(sides[0])
