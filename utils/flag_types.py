"""What the text behind a flag may be: argparse types, each with the sentence for what it refuses."""

import argparse
from pathlib import Path

from dataset import SOURCES, TARGETS
from dataset.domains import BUILT_IN

PUBLISHED_WEIGHTS = "1:0.5"  # of the primary and the auxiliary classifier


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
positive = _number(int, 0, _INF, True, True, "a whole number above 0")
not_negative = _number(int, 0, _INF, False, True, "a whole number, 0 or more")
seed = _number(int, 0, 2**64 - 1, False, False, "a whole number from 0 to 2^64 - 1")
byte = _number(int, 0, 255, False, False, "a whole number from 0 to 255")
positive_float = _number(float, 0, _INF, True, True, "a number above 0")
not_negative_float = _number(float, 0, _INF, False, True, "a number, 0 or more")
share = _number(float, 0, 1, False, True, "a number from 0 to below 1")
fraction = _number(float, 0, 1, False, False, "a number from 0 to 1")
percent = _number(float, 0, 100, False, True, "a percentile from 0 to below 100")


def size(text: str) -> tuple[int, int]:
    """`width,height` -> (height, width)."""
    try:
        width, height = (positive(side) for side in text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write width,height") from None
    return height, width


def _domain(text: str, names: tuple[str, ...]) -> str:
    """A name among `names`, or the path of a description file or folder."""
    if text in names or (Path(text).exists() and text not in BUILT_IN):
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
        return [positive_float(scale) for scale in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of scales; write 1,1.25") from None


def gpu_ids(text: str) -> list[int]:
    """`0,1` -> [0, 1]."""
    try:
        ids = [not_negative(number) for number in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of GPU numbers; write 0,1") from None
    if len(set(ids)) < len(ids):
        raise argparse.ArgumentTypeError(f"{text!r} names a GPU twice")
    return ids
