"""Your own data: a folder of pictures, or pictures and labels that a YAML description explains.

docs/data.md shows how to write a description. A mistake in one is reported in a line that names the file,
the key and what to write.
"""

import colorsys
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import count
from pathlib import Path, PurePosixPath

from dataset.base import SPLIT_FOLDERS, Domain, SegmentationDataset
from dataset.cityscapes import CITYSCAPES_COLORS, CLASS_OF_ID, KNOWN_IDS
from dataset.images import (
    NO_COLOR,
    PICTURE_SUFFIXES,
    ColorReader,
    DataError,
    FirstChannelReader,
    IdReader,
    LabelReader,
    scan,
)
from dataset.labels import IDS, IGNORE, Color, Colors
from dataset.yaml_file import load_yaml

DESCRIPTION_FILE = "dataset.yaml"  # in the folder of a data set
SPLIT = "{split}"  # placeholder in folder names
ANY = "*"  # stands for any one folder, or any part of its name
WILDCARDS = re.compile(r"\{split\}|\*")
TRAIN_IDS = "train-ids"
READERS = {
    "ids": IdReader(),
    TRAIN_IDS: IdReader(),
    "first-channel": FirstChannelReader(),
    "colors": None,  # depends on the colours
}
FOLDER = r"(?!.*\*\*).{0,1000}", "a folder; write numbers in quotes, and * for each level"
SUFFIX = r"[^/\\]{0,1000}", "the end of a file name; put folders into images and labels"
# Keys with a text as value -> the pattern of the text, and its description in messages.
TEXTS = {
    "name": (r"[A-Za-z0-9][A-Za-z0-9._-]*", "a name of letters, digits and . _ -; write numbers in quotes"),
    "root": (r".{0,1000}", "a folder; write numbers in quotes"),
    "image-suffix": SUFFIX,
    "label-suffix": SUFFIX,
    "label-format": ("|".join(READERS), f"one of {', '.join(READERS)}"),
    "size": (r"\s*[1-9]\d{0,4}\s*,\s*[1-9]\d{0,4}\s*", "a size; write width,height such as 1280,720"),
}
FOLDERS = ("images", "labels")  # keys with a folder, or a list of them, as value
CLASS_KEYS = ("ids", "color", "colors")
IGNORE_KEYS = ("ids", "colors", "others")
HEX_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
CITYSCAPES = "cityscapes"  # as `classes`: those of its benchmark
MAX_CLASSES = IGNORE  # train ids 0 to 254
GOLDEN_RATIO = 0.618034  # multiples of it, modulo 1, are well spread hues for any number of classes
Labels = tuple[Colors, dict[int, str], list[int] | None, LabelReader]  # as in `Domain`


class FolderDataset(SegmentationDataset):
    """Pictures below one or several folders, labels with the same names below as many others.

    A folder without split folders, `images/` instead of `images/train/`, serves every split; so does a
    root that holds the pictures itself. Names are relative to the folder; of several, to what they share.

    Args:
        images, labels: folders below the root, with `{split}` for the split and `*` for any one folder, the
            same in images and labels; `labels` is None without labels.
        image_suffix: of the images; None: any picture.
        label_suffix: what replaces it in the name of a label.
    """

    def __init__(
        self,
        *args,
        images: Sequence[str],
        labels: Sequence[str] | None,
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
    def divided(self) -> bool:
        """Whether the split chooses among the images."""
        return any(SPLIT in pattern for pattern in map(self._pattern, self.images))

    @cached_property
    def image_folder(self) -> Path:
        patterns = [_above_wildcards(self._pattern(images)) for images in self.images]
        return self._in_split(os.path.commonpath(patterns))

    @cached_property
    def folders(self) -> dict[str, Path | None]:
        """Each folder of images, below `image_folder` -> that of its labels, None without labels.

        Raises:
            DataError: one that the description names does not exist.
        """
        found: dict[Path, Path | None] = {}
        for images, labels in zip(self.images, self.labels or [None] * len(self.images), strict=True):
            matches = self._matches(self._pattern(images))
            if not matches and not (SPLIT in images and (self.root / _before(images)).is_dir()):
                raise DataError(
                    f"{self._in_split(images)}: no such folder of images; correct the description"
                )
            for folder, parts in matches.items():
                found[folder] = self._in_split(_filled(self._pattern(labels), parts)) if labels else None
        # `*` may match folders of labels too.
        hidden = {labels for images, labels in found.items() if labels not in (None, images)}
        hidden |= {self.root / _before(labels) for labels in self.labels or ()}
        hidden -= {self.image_folder, *self.image_folder.parents}
        return {
            images.relative_to(self.image_folder).as_posix(): labels
            for images, labels in found.items()
            if not hidden.intersection((images, *images.parents))
        }

    def scan(self) -> list[str]:
        """Names of the images; labels among or below them are left out, whatever their split."""
        names: dict[str, None] = {}
        for inside, labels in self.folders.items():
            folder = self.image_folder / inside
            excluded = self.label_suffix if labels == folder else None
            label_folders = (labels, *(self.root / _before(pattern) for pattern in self.labels or ()))
            try:
                found = scan(folder, self.image_suffixes, excluded, label_folders)
            except DataError:
                if len(self.folders) == 1:
                    raise
                continue  # some of several folders may be empty
            names |= dict.fromkeys(found if inside == "." else (f"{inside}/{name}" for name in found))
        if not names:
            sought = ", ".join(str(self._in_split(pattern)) for pattern in self.images)
            raise DataError(f"{sought}: no images; put them there, or correct the description or --set")
        return sorted(names)

    def own_label_path(self, name: str) -> Path | None:
        if self.labels is None:
            return None
        inside = next((str(p) for p in PurePosixPath(name).parents if str(p) in self.folders), None)
        if inside is None:
            raise DataError(f"{self.image_folder / name}: lies in none of the folders of images")
        suffix = self.image_suffix or Path(name).suffix
        below = name if inside == "." else name[len(inside) + 1 :]
        return self.folders[inside] / (below[: len(below) - len(suffix)] + self.label_suffix)

    def _pattern(self, pattern: str) -> str:
        """The pattern, or the part before `{split}` if the set has no folders of splits there."""
        whole = pattern.partition(SPLIT)[0]
        if len(self.images) > 1 or ANY in pattern or self._in_split(pattern).is_dir():
            return pattern
        undivided = (self.root / whole).is_dir() and not has_splits(self.root / whole)
        return whole.rstrip("/") or "." if undivided else pattern

    def _in_split(self, pattern: str) -> Path:
        return self.root / pattern.replace(SPLIT, self.split)

    def _matches(self, pattern: str) -> dict[Path, list[str]]:
        """The folders that a pattern matches -> what stands for each `*`."""
        pieces = pattern.replace(SPLIT, self.split).split(ANY)
        expression = re.compile("([^/]*)".join(map(re.escape, pieces)))
        found = sorted(glob.glob(ANY.join(map(glob.escape, pieces)), root_dir=self.root))
        return {
            self.root / name: list(expression.fullmatch(name).groups())
            for name in found
            if (self.root / name).is_dir()
        }


def _before(pattern: str) -> str:
    """What precedes the first `{split}` or `*` of a pattern."""
    return re.split(WILDCARDS, pattern, maxsplit=1)[0]


def _above_wildcards(pattern: str) -> str:
    """The folder above the first part of a pattern that has a `*`."""
    return pattern.partition(ANY)[0].rpartition("/")[0] if ANY in pattern else pattern


def _filled(pattern: str, parts: Sequence[str]) -> str:
    """The pattern with `parts` in place of its `*`."""
    for part in parts:
        pattern = pattern.replace(ANY, part, 1)
    return pattern


def has_splits(folder: Path) -> bool:
    """Whether a folder of images or labels has a folder for a split."""
    return any((folder / split).is_dir() for split in SPLIT_FOLDERS)


def read_domain(path: Path) -> Domain:
    """The domain in a description file, or in a folder with or without one.

    A folder without `dataset.yaml` holds pictures only: a target, which takes the classes of its source.

    Raises:
        DataError: there is no such file or folder, or the description has a mistake.
    """
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: not a built-in data set, a description file or a folder")
    file = path / DESCRIPTION_FILE if path.is_dir() else path
    in_folder = file.name == DESCRIPTION_FILE
    name = os.path.basename(os.path.realpath(file.parent)) if in_folder else file.stem
    described = os.path.lexists(file)
    texts, labels = _read_description(file, name) if described else ({"name": name}, ({}, {}, [], IdReader()))
    root = file.parent / texts.get("root", ".")
    images = texts.get("images", (f"images/{SPLIT}" if (root / "images").is_dir() else ".",))
    pooled = len(images) > 1 or ANY in images[0]  # then there is no usual place for labels
    colors, class_of_id, known_ids, reader = labels
    dataset = partial(
        FolderDataset,
        images=images,
        labels=texts.get("labels", None if pooled or not described else (f"labels/{SPLIT}",)),
        image_suffix=texts.get("image-suffix"),
        label_suffix=texts.get("label-suffix", ".png"),
    )
    sizes = {}
    if "size" in texts:
        width, height = map(int, texts["size"].split(","))
        sizes = dict.fromkeys(("source_size", "target_size", "pseudo_size"), (height, width))
    # Without split folders, `{split}` alone stands for the root too: see FolderDataset.
    divided = has_splits(root)
    bare = any(
        not Path(_before(pattern)).parts and not (pattern.startswith(SPLIT) and divided) for pattern in images
    )
    return Domain(
        str(path), texts["name"], root, colors, class_of_id, known_ids, dataset, reader, bare=bare, **sizes
    )


def _read_description(path: Path, name: str) -> tuple[dict, Labels]:
    """The values of the keys in `TEXTS` and `FOLDERS`, `name` by default, and what the labels mean."""
    try:
        values = load_yaml(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable or not valid YAML ({error}); see docs/data.md") from error
    try:
        given = {"name": name} | _mapping("the description", values, (*TEXTS, *FOLDERS, "classes", "ignore"))
        texts = {key: _text(key, value) for key, value in given.items() if key in TEXTS}
        texts |= {key: _folders(key, given[key]) for key in FOLDERS if key in given}
        _check_folders(**{key: texts[key] for key in FOLDERS if key in texts})
        labels = _labels(texts.get("label-format", "ids"), given.get("classes"), given.get("ignore", {}))
    except ValueError as error:
        raise DataError(f"{path}: {error}; see docs/data.md") from error
    return texts, labels


def _mapping(where: str, values: object, keys: Sequence[str]) -> dict:
    """`values`, if it is a mapping with such keys; those without a value are left out."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: write keys and values instead of {values!r:.100}")
    for key in values:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {key!r:.100}; possible keys are {', '.join(keys)}")
    # An empty color is a mistake: to YAML, # begins a comment.
    return {key: value for key, value in values.items() if value is not None or key == "color"}


def _folders(key: str, value: object) -> tuple[str, ...]:
    """One or several folders, in the spelling of `Path`."""
    values = value if isinstance(value, list) and value else [value]
    return tuple(Path(_text(key, folder)).as_posix() for folder in values)


def _check_folders(images: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
    """Refuse folders of labels that do not go with those of the images."""
    if len(images) > 1 and any(map(os.path.isabs, images)):
        raise ValueError("images: write several folders relative to root")
    if labels and len(labels) != max(1, len(images)):
        raise ValueError(f"labels: {len(labels)} folders for {max(1, len(images))} of images; write as many")
    for pattern, other in zip(labels, images or ("",), strict=False):
        if pattern.count(ANY) > other.count(ANY):
            raise ValueError(f"labels: {pattern} has more * than images: {other}; write * in both")


def _text(key: str, value: object) -> str:
    pattern, expected = FOLDER if key in FOLDERS else TEXTS[key]
    if key == "size" and isinstance(value, list) and all(type(side) is int for side in value):
        value = ",".join(map(str, value))
    if not isinstance(value, str) or not value.isprintable() or not re.fullmatch(pattern, value):
        raise ValueError(f"{key}: {value!r:.100} is not {expected}")
    return value


# The meaning of the labels


def _labels(label_format: str, classes: object, ignore: object) -> Labels:
    by_color, numbered = label_format == "colors", label_format == TRAIN_IDS
    if classes == CITYSCAPES:
        by_id = not (by_color or numbered)
        classes = {
            name: {"color": [*CITYSCAPES_COLORS[name]]} | ({"ids": label_id} if by_id else {})
            for label_id, name in CLASS_OF_ID.items()
        }
        if by_id and not ignore:
            ignore = {"ids": [label_id for label_id in KNOWN_IDS if label_id not in CLASS_OF_ID]}
    if not isinstance(classes, dict) or not classes:
        raise ValueError("classes: write one class per line, such as  road: {ids: 7}")
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"classes: {len(classes)} classes are too many; at most {MAX_CLASSES} are possible")
    groups = {
        str(name): _group(f"class {name}", {} if numbered and value is None else value, CLASS_KEYS)
        for name, value in classes.items()
    }
    ignored = _group("ignore", {"others": True} if ignore == "others" else ignore, IGNORE_KEYS)
    kind = "colors" if by_color else "ids"
    for train_id, (name, group) in enumerate(groups.items()):
        if group["ids"] and (numbered or by_color):
            raise ValueError(f"class {name}: has ids, but label-format is {label_format}; remove the ids")
        if numbered:
            group["ids"] = [train_id]
        if not group[kind]:
            raise ValueError(f"class {name}: has no {kind}; write those of its pixels in the label files")
    owner = _owners({name: group[kind] for name, group in groups.items()}, ignored[kind], kind)
    if by_color:  # the id of a colour is its index among all colours
        every = tuple(dict.fromkeys((*owner, *ignored["colors"])))
        colors = {name: group["colors"][0] for name, group in groups.items()}
        class_of_id = {every.index(color): name for color, name in owner.items()}
        return colors, class_of_id, [*range(len(every)), NO_COLOR], ColorReader(every, ignored["others"])
    chosen = _owners({name: group["colors"][:1] for name, group in groups.items()}, (), "colors")
    drawn = (color for color in _distinct_colors() if color not in chosen)
    colors = {name: group["colors"][0] if group["colors"] else next(drawn) for name, group in groups.items()}
    known = None if ignored["others"] else [*owner, *ignored["ids"], IGNORE]
    return colors, owner, known, READERS[label_format]


def _group(where: str, values: object, keys: Sequence[str]) -> dict:
    """The `ids` and `colors` of a class, or those to ignore; `others`: ignore every other id too."""
    values = _mapping(where, values, keys)
    ids, colors, others = values.get("ids", []), values.get("colors", []), values.get("others", False)
    ids = ids if isinstance(ids, list) else [ids]
    for number in ids:
        if type(number) is not int or not 0 <= number < IDS:
            raise ValueError(f"{where}: id {number!r:.100} is not a whole number from 0 to {IDS - 1}")
    if not isinstance(colors, list):
        raise ValueError(f"{where}: write a list of colors instead of {colors!r:.100}")
    if not isinstance(others, bool):
        raise ValueError(f"{where}: others is true or false, not {others!r:.100}")
    colors = [values["color"], *colors] if "color" in values else colors
    return {"ids": ids, "colors": [_color(where, color) for color in colors], "others": others}


def _color(where: str, value: object) -> Color:
    if isinstance(value, str) and HEX_COLOR.fullmatch(value):
        return tuple(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value):
        return tuple(value)
    raise ValueError(f'{where}: color {value!r:.100}: write [red, green, blue] or "#rrggbb" in quotes')


def _owners(groups: Mapping[str, Sequence], ignored: Sequence, kind: str) -> dict:
    """The class of each id or colour, which may be listed only once."""
    what = "colour" if kind == "colors" else "id"
    owner: dict = {}
    for name, values in groups.items():
        for value in values:
            if value in owner:
                raise ValueError(f"class {name}: {what} {value} is already listed for class {owner[value]}")
            owner[value] = name
    for value in ignored:
        if value in owner:
            raise ValueError(f"ignore: {what} {value} is already listed for class {owner[value]}")
    return owner


def _distinct_colors() -> Iterator[Color]:
    """Well spread colours for classes without one."""
    for index in count():
        hue, value = index * GOLDEN_RATIO % 1, 0.95 if index % 2 else 0.7
        yield tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.65, value))
