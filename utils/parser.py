"""The parser of every script: bad flags end in one line, and the flags that several scripts share."""

import argparse
from pathlib import Path

from dataset import SOURCES, TARGETS
from utils import flag_types
from utils.errors import exit_with_error

LONGEST_MESSAGE = 400  # characters
# How the help calls a value; others go by their flag.
METAVARS = {
    Path: "PATH",
    flag_types.positive: "N",
    flag_types.not_negative: "N",
    flag_types.workers: "N",
    flag_types.seed: "N",
    flag_types.classes: "N",
    flag_types.byte: "N",
    flag_types.positive_float: "X",
    flag_types.not_negative_float: "X",
    flag_types.share: "X",
    flag_types.fraction: "X",
    flag_types.percent: "PERCENT",
    flag_types.size: "W,H",
    flag_types.split: "NAME",
    flag_types.boolean: "True|False",
    flag_types.gpu_ids: "N,N",
    flag_types.scales: "X,X",
    flag_types.words: "TEXT",
    flag_types.seeds: "N,N",
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults behind every flag that has one; that a switch is off goes without saying."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return METAVARS.get(action.type) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default is not None and action.default is not False and action.default != ()
        return super()._get_help_string(action) if said else action.help


class OneLineParser(argparse.ArgumentParser):
    """argparse that answers a bad flag with one line instead of the whole usage."""

    origin = ""  # of what is parsed, with a colon, where it was not given on the command line

    def __init__(self, description: str | None = None, add_help: bool = True):
        super().__init__(
            usage="%(prog)s [flags]",
            description=description,
            allow_abbrev=False,
            formatter_class=HelpFormatter,
            add_help=add_help,
        )
        self.register("type", None, flag_types.text)
        self.register("type", Path, flag_types.path)

    def error(self, message: str):
        """Print the line, of a long one both ends, and leave with exit status 2."""
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
        exit_with_error(f"{self.prog}: error: {self.origin}{message} (--help lists the flags)")


def require(parser: OneLineParser, value: object, message: str) -> None:
    if not value:
        parser.error(message)


def check_threshold(parser: OneLineParser, threshold: float, folder: Path | None, flag: str) -> None:
    """The default folder's name has one decimal: labels of 0.9 and 0.95 must not meet in one."""
    if folder is None and round(threshold, 1) != threshold:
        parser.error(f"--threshold {threshold}: the folder's name has one decimal; name a folder with {flag}")


def add_domain_flags(parser, source: str | None, target: str | None) -> None:
    """The two flags that every script has; a default of None is the snapshot's to say."""
    own = "or a description file or folder of your own data (docs/own-data.md)"
    said = "" if source else " (default: what the snapshot was trained with)"
    parser.add_argument(
        "--source",
        type=flag_types.source,
        default=source,
        metavar="DOMAIN",
        help=f"labelled domain: {', '.join(SOURCES)}, {own}; names the snapshots{said}",
    )
    parser.add_argument(
        "--target",
        type=flag_types.target,
        default=target,
        metavar="DOMAIN",
        help=f"domain to adapt to: {', '.join(TARGETS)}, {own}{said}",
    )


def add_switch(group, name: str, help_text: str, default: bool = False) -> None:
    """A switch that is accepted bare and with a value: `--autoaug`, `--autoaug False`."""
    other = "--" + name[2:].replace("_", "-")
    names = [name] if other == name else [name, other]
    group.add_argument(
        *names, type=flag_types.boolean, nargs="?", const=True, default=default, help=help_text
    )
