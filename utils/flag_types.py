"""What the text behind a flag may be: argparse types, each with the sentence for what it refuses."""

import argparse
import os
import re
from pathlib import Path

from dataset import SOURCES, TARGETS
from dataset.domains import BUILT_IN

PUBLISHED_WEIGHTS = "1:0.5"  # of the primary and the auxiliary classifier
MAX_NAME, MAX_PATH = 255, 4095  # bytes of a file's name and of a whole path, as file systems have them
MAX_NUMBER = 2**31 - 1  # more is a slip, and overflows somewhere
MAX_SIDE = 2**16 - 1  # pixels
MIN_SCALE, MAX_SCALE = 1 / 16, 16
MAX_WORKERS = 1024


def format_size(size: tuple[int, int]) -> str:
    """(height, width) as the flags spell it: width,height."""
    return f"{size[1]},{size[0]}"


def boolean(text: str) -> bool:
    """True or False."""
    values = {"true": True, "yes": True, "on": True, "1": True}
    values |= {"false": False, "no": False, "off": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def _number(kind: type, low: float, high: float, low_open: bool, high_open: bool, what: str):
    """An argparse type: a number of `kind` in the interval, called `what` in the error."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        above = value > low if low_open else value >= low
        below = value < high if high_open else value <= high
        if not (above and below):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


_INF = float("inf")
positive = _number(int, 1, MAX_NUMBER, False, False, f"a whole number from 1 to {MAX_NUMBER}")
not_negative = _number(int, 0, MAX_NUMBER, False, False, f"a whole number from 0 to {MAX_NUMBER}")
workers = _number(int, 0, MAX_WORKERS, False, False, f"a whole number from 0 to {MAX_WORKERS}")
seed = _number(int, 0, 2**64 - 1, False, False, "a whole number from 0 to 2^64 - 1")
byte = _number(int, 0, 255, False, False, "a whole number from 0 to 255")
positive_float = _number(float, 0, _INF, True, True, "a number above 0")
not_negative_float = _number(float, 0, _INF, False, True, "a number, 0 or more")
share = _number(float, 0, 1, False, True, "a number from 0 to below 1")
fraction = _number(float, 0, 1, False, False, "a number from 0 to 1")
classes = _number(int, 1, 255, False, False, "a whole number from 1 to 255")
percent = _number(float, 0, 100, False, True, "a percentile from 0 to below 100")
_side = _number(int, 1, MAX_SIDE, False, False, "a side in pixels")
_scale = _number(float, MIN_SCALE, MAX_SCALE, False, False, "a scale")


def text(value: str) -> str:
    """What a flag takes as it is, mostly a path: not empty, and nothing that no file can be called."""
    name = os.fsencode(words(value))
    if len(name) > MAX_PATH or any(len(part) > MAX_NAME for part in name.split(b"/")):
        raise argparse.ArgumentTypeError(f"{value!r} is too long for the name of a file")
    return value


def words(value: str) -> str:
    """Any text, on one line that a person can read."""
    if not value:
        raise argparse.ArgumentTypeError("is empty; give a value or leave the flag out")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise argparse.ArgumentTypeError(f"{value!r} holds control characters")
    if len(value) > MAX_PATH:
        raise argparse.ArgumentTypeError(f"{value!r} is too long")
    return value


def weights(value: str) -> str:
    """A file, or a URL of any length."""
    return words(value) if "://" in value else text(value)


def path(name: str) -> Path:
    """A file or folder, which need not be there."""
    return Path(text(name))


def split(name: str) -> str:
    """A folder within those of images and labels."""
    parts = path(name).parts
    if not parts or ".." in parts or path(name).is_absolute():
        raise argparse.ArgumentTypeError(f"{name!r} leaves the data folder; name a part of it such as train")
    return name


def size(text: str) -> tuple[int, int]:
    """`width,height` -> (height, width)."""
    try:
        width, height = (_side(side) for side in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write width,height, each at most {MAX_SIDE}"
        ) from None
    return height, width


def _domain(text: str, names: tuple[str, ...]) -> str:
    """A name among `names`, or the path of a description file or folder."""
    if text in names or (path(text).exists() and text not in BUILT_IN):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is none of {', '.join(names)}, and no description file or folder of that name is here"
    )


def source(text: str) -> str:
    """A domain with labels."""
    return _domain(text, SOURCES)


def target(text: str) -> str:
    """A domain to adapt to."""
    return _domain(text, TARGETS)


def any_domain(text: str) -> str:
    """A built-in domain or one of your own."""
    return _domain(text, tuple(BUILT_IN))


def weightings(text: str) -> dict[str, tuple[float, float]]:
    """`1:0.5,1:0` -> what was written -> weights of the auxiliary and the primary classifier."""
    pairs = {}
    for title in text.split(","):
        try:
            primary, auxiliary = (not_negative_float(weight) for weight in title.split(":"))
        except (ValueError, argparse.ArgumentTypeError):
            raise argparse.ArgumentTypeError(
                f"{title!r} is no pair of weights; write primary:auxiliary such as {PUBLISHED_WEIGHTS}"
            ) from None
        if primary == auxiliary == 0:
            raise argparse.ArgumentTypeError(f"{title!r} uses neither classifier")
        if title in pairs:
            raise argparse.ArgumentTypeError(f"{title!r} stands twice")
        pairs[title] = (auxiliary, primary)
    return pairs


def one_weighting(text: str) -> tuple[float, float]:
    """`1:0.5` -> weights of the auxiliary and the primary classifier."""
    pairs = weightings(text)
    if len(pairs) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: pseudo labels are made with one pair of weights")
    return next(iter(pairs.values()))


def scales(text: str) -> list[float]:
    """`1,1.25` -> [1.0, 1.25]."""
    try:
        return [_scale(scale) for scale in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of scales from {MIN_SCALE:g} to {MAX_SCALE}; write 1,1.25"
        ) from None


def seeds(text: str) -> list[int]:
    """`0,1,2` -> [0, 1, 2], each once."""
    try:
        return list(dict.fromkeys(seed(number) for number in text.split(",")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds; write 0,1,2") from None


def gpu_ids(text: str) -> list[int]:
    """`0,1` -> [0, 1]."""
    try:
        ids = [not_negative(number) for number in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of GPU numbers; write 0,1") from None
    if len(set(ids)) < len(ids):
        raise argparse.ArgumentTypeError(f"{text!r} names a GPU twice")
    return ids
