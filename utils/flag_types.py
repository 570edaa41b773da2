"""The parser of every script, and the types of its flags.

A type turns the text of a flag into its value, or raises `ArgumentTypeError` with a message that quotes the
text. The values in `opts.yaml` and in result files are checked by the same types.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dataset import SOURCES, TARGETS
from dataset.domains import BUILT_IN
from model.deeplab_multi import ARCHS
from model.timm_backbone import PREFIX, ArchError, make_plan
from utils.errors import UserError, exit_with_error

PUBLISHED_WEIGHTS = "1:0.5"  # of the primary and the auxiliary classifier
MAX_TEXT = 4095  # characters; as many bytes as a path can have
MAX_NUMBER = 2**31 - 1  # anything larger is a typing error, and overflows somewhere
MAX_SIDE = 2**16 - 1  # pixels
MIN_SCALE, MAX_SCALE = 1 / 16, 16
MAX_WORKERS = 1024
MAX_MESSAGE = 400  # characters
INF = float("inf")


def number(kind: type, accepts: Callable[[Any], bool], what: str) -> Callable[[str], Any]:
    """The type of an `int` or `float` that `accepts` approves of; errors describe it as `what`."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    parse.metavar = "N" if kind is int else "X"
    return parse


def several(
    kind: Callable, what: str, metavar: str, count: int | None = None, unique: bool = False
) -> Callable[[str], list]:
    """The type of values of a `kind`, separated by commas: `count` of them, if `unique` none twice."""

    def parse(text: str) -> list:
        try:
            values = [kind(part) for part in text.split(",")]
        except argparse.ArgumentTypeError:
            values = []
        if not values or count not in (None, len(values)) or (unique and len(set(values)) < len(values)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return values

    parse.metavar = metavar
    return parse


def integer(low: int, high: int = MAX_NUMBER) -> Callable[[str], int]:
    """The type of a whole number from `low` to `high`."""
    return number(int, lambda n: low <= n <= high, f"a whole number from {low} to {high}")


positive, not_negative, seed = integer(1), integer(0), integer(0, 2**64 - 1)
workers = integer(0, MAX_WORKERS)
positive_float = number(float, lambda x: 0 < x < INF, "a number above 0")
not_negative_float = number(float, lambda x: 0 <= x < INF, "a number of at least 0")
share = number(float, lambda x: 0 <= x < 1, "a number from 0 to below 1")
fraction = number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
threshold = number(
    float,
    lambda x: 0 <= x <= 1 or (x > 1 and x.is_integer()),
    "a number from 0 to 1, or a whole one for no threshold",
)
jitter = number(float, lambda x: 0 <= x <= 0.5, "a number from 0 to 0.5")
percentile = number(float, lambda x: 0 <= x < 100, "a percentile from 0 to below 100")
scale = number(float, lambda x: MIN_SCALE <= x <= MAX_SCALE, f"a number from {MIN_SCALE:g} to {MAX_SCALE}")
scales = several(scale, "a list of scales; write 1,1.25", "X,X")
scale_range = several(scale, "a range of scales; write low,high such as 0.8,1.2", "LOW,HIGH", 2)
names = several(str, "a list", "NAME,NAME")
rows = several(not_negative, "a pair of rows; write top,bottom such as 15,120", "TOP,BOTTOM", 2)
seeds = several(seed, "a list of different seeds; write 0,1,2", "N,N", unique=True)
gpu_ids = several(not_negative, "a list of different GPU numbers; write 0,1", "N,N", unique=True)
width_height = several(integer(1, MAX_SIDE), f"a size; write width,height, each at most {MAX_SIDE}", "", 2)


def any_case(names: Iterable[str]) -> Callable[[str], str]:
    """The type of a choice among `names`, whatever the case of its letters."""
    return lambda text: next((name for name in names if name.lower() == text.lower()), text)


def shown_as(metavar: str) -> Callable:
    """Decorator of a type: what --help calls its value."""

    def mark(kind: Callable) -> Callable:
        kind.metavar = metavar
        return kind

    return mark


@shown_as("True|False")
def boolean(text: str) -> bool:
    """True or False."""
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


@shown_as("TEXT")
def text(value: str) -> str:
    """Any printable text on one line."""
    if not re.fullmatch(rf"[^\x00-\x1f\x7f]{{1,{MAX_TEXT}}}", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not one line of 1 to {MAX_TEXT} characters")
    return value


@shown_as("PATH")
def path(name: str) -> Path:
    """A file or folder, which need not exist."""
    return Path(text(name))


@shown_as("NAME")
def split(name: str) -> str:
    """A folder inside those of images and labels."""
    parts = path(name).parts
    if not parts or ".." in parts or path(name).is_absolute():
        raise argparse.ArgumentTypeError(f"{name!r} leaves the data folder; name a part of it such as train")
    return name


@shown_as("W,H")
def size(text: str) -> tuple[int, int]:
    """`width,height` -> (height, width)."""
    width, height = width_height(text)
    return height, width


def format_size(size: tuple[int, int]) -> str:
    """(height, width) as the flags write it: width,height."""
    return f"{size[1]},{size[0]}"


def _domain(names: tuple[str, ...]) -> Callable[[str], str]:
    """The type of a name among `names`, or of the path of a description file or folder."""

    @shown_as("DOMAIN")
    def parse(text: str) -> str:
        if text in names or (path(text).exists() and text not in BUILT_IN):
            return text
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither one of {', '.join(names)} nor an existing description file or folder"
        )

    return parse


source, target, any_domain = _domain(SOURCES), _domain(TARGETS), _domain(tuple(BUILT_IN))


@shown_as("ARCH")
def arch(name: str) -> str:
    """A size of the published network, or a backbone of timm that can be used."""
    if name in ARCHS:
        return name
    if not name.startswith(PREFIX):
        raise argparse.ArgumentTypeError(f"{name!r} is neither {' nor '.join(ARCHS)} nor {PREFIX}NAME")
    try:
        make_plan(name)
    except ArchError as error:
        raise argparse.ArgumentTypeError(f"{text(name)!r} {error}") from error
    return name


@shown_as("W:W,W:W")
def weightings(text: str) -> dict[str, tuple[float, float]]:
    """`1:0.5,1:0` -> each pair as written -> weights of the (auxiliary, primary) classifier."""
    pairs = {}
    for title in text.split(","):
        try:
            primary, auxiliary = map(not_negative_float, title.split(":"))
        except (ValueError, argparse.ArgumentTypeError):
            advice = f"write primary:auxiliary such as {PUBLISHED_WEIGHTS}"
            raise argparse.ArgumentTypeError(f"{title!r} is not a pair of weights; {advice}") from None
        if primary == auxiliary == 0:
            raise argparse.ArgumentTypeError(f"{title!r} uses neither classifier")
        if title in pairs:
            raise argparse.ArgumentTypeError(f"{title!r} is given twice")
        pairs[title] = (auxiliary, primary)
    return pairs


@shown_as("N")
def gpu(text: str) -> list[int]:
    """`1` -> [1]: one process predicts on one GPU."""
    return [not_negative(text)]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of every flag that has one, except of switches that are off."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = path if action.type is Path else action.type
        return getattr(kind, "metavar", None) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = not (action.default is None or action.default is False or action.default == ())
        return super()._get_help_string(action) if has_default else action.help


class Flags(argparse.Namespace):
    """Parsed flags.

    Attributes:
        given: names of the flags that were given -> how they were spelled; not one of the flags.
    """

    __slots__ = ("given",)

    def __init__(self, **values: object):
        super().__init__(**values)
        self.given: dict[str, str] = {}


class OneLineParser(argparse.ArgumentParser):
    """argparse that answers a bad flag with one line instead of the whole usage.

    Attributes:
        origin: the file that the arguments come from; None: the command line. An error in a file is a
            `UserError`; one on the command line exits with status 2.
    """

    origin: Path | None = None

    def __init__(self, description: str | None = None, usage: str = "[flags]"):
        super().__init__(
            usage=f"%(prog)s {usage}",
            description=description,
            allow_abbrev=False,
            formatter_class=HelpFormatter,
        )
        self.register("type", None, text)
        self.register("type", Path, path)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Flags | None = None):
        """As argparse's, into `Flags`."""
        flags, rest = super().parse_known_args(args, Flags() if namespace is None else namespace)
        words = {word.partition("=")[0] for word in (sys.argv[1:] if args is None else args)}
        for action in self._actions:
            for name in words.intersection(action.option_strings):
                flags.given[action.dest] = name
        return flags, rest

    def error(self, message: str):
        """Report the error in one line; a long one keeps both ends."""
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 2 :]}"
        if self.origin:
            raise UserError(f"{self.origin}: {message}; correct it, or copy the file again")
        exit_with_error(f"{self.prog}: error: {message} (--help lists the flags)")

    def group(self, title: str) -> Callable:
        """Start a group of flags; returns `add("--name --alias", type, default, help)`, which adds one.

        The type `boolean` makes a switch, which may come bare or with a value (`--autoaug`,
        `--autoaug False`) and with `-` for `_` in its name; a tuple of texts lists the choices.
        """
        add_argument = self.add_argument_group(title).add_argument

        def add(names: str, kind: object, default: object, help: str, **options) -> None:
            if kind is boolean:
                names += f" {names.replace('_', '-')}" if "_" in names else ""
                options = dict(type=boolean, nargs="?", const=True)
            elif isinstance(kind, Callable):
                options["type"] = kind
            else:
                options["choices"] = tuple(kind)
            add_argument(*names.split(), default=default, help=help, **options)

        return add
