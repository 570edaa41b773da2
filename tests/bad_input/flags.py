"""Bad flags, derived from the scripts' own parsers: a new flag is tried as soon as it is declared."""

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

from tests.bad_input.case import Case
from tests.bad_input.world import GOOD
from tests.conftest import load_script

KIND = "flags"
LONG = "9" * 5000
# No flag that reads numbers, sizes, lists of numbers, switches or choices takes one of these ...
NO_VALUE = ("", " ", "nonsense", "-1", "nan", "inf", "-inf", "1e999", "1;2", "[1]", "0x", "٣½", LONG)
# ... nor, if it reads whole numbers, one of these.
NO_WHOLE_NUMBER = ("1.5", "1e3", "1e30", "9" * 30, "1 2")
# No flag that takes text takes one of these.
NO_TEXT = ("", LONG, "two\nlines", "a\x1b[2Jscreen", "zero\0byte")


class _Declared(Exception):
    """Carries a parser out of the script that made it."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser


def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser that a script's `main` declares its flags with."""

    def declared(parser, *_, **__):
        raise _Declared(parser)

    methods = dict.fromkeys(("parse_args", "parse_intermixed_args"), declared)
    with mock.patch.multiple(argparse.ArgumentParser, **methods), mock.patch("sys.argv", [script]):
        try:
            load_script(script).main()
        except _Declared as found:
            return found.parser
    raise AssertionError(f"{script} parses no flags")


def flags_of(script: str) -> list[argparse.Action]:
    """What a script can be given, but --help."""
    return [action for action in parser_of(script)._actions if action.dest != "help"]


def _reads(action: argparse.Action, *texts: str) -> object:
    """What the flag makes of the first of the texts that it takes."""
    for text in texts:
        try:
            return action.type(text)
        except (argparse.ArgumentTypeError, ValueError):
            continue
    return None


def bad_values(action: argparse.Action) -> tuple[str, ...]:
    """What the flag must refuse, whatever else it takes."""
    if action.nargs == 0:
        return ("True", "")  # a switch that takes no value
    if action.choices:
        return (*NO_VALUE, *NO_TEXT[2:])
    if action.type is None:
        return NO_TEXT
    value = _reads(action, "1", "0.5", "1,1", "1:1", "folder")
    if isinstance(value, str | Path):
        return NO_TEXT
    if isinstance(value, int) and not isinstance(value, bool):
        return (*NO_VALUE, *NO_WHOLE_NUMBER)
    return NO_VALUE


def _no_demo() -> None:
    """A bad flag that the demo takes is to fail the case and not to cost minutes."""
    importlib.import_module("demo").train_and_evaluate = None


def cases() -> Iterator[Case]:
    """Every flag of every script with every value that it must refuse, without one, and cut short."""
    for case in _cases():
        yield replace(case, within=_no_demo) if case.script == "demo" else case


def _cases() -> Iterator[Case]:
    for script, good in GOOD.items():
        actions = flags_of(script)
        every = {name for action in actions for name in action.option_strings}
        for action in actions:
            if not action.option_strings:
                for value in bad_values(action):
                    flags = (value, *good[1:])
                    yield Case(KIND, f"{action.dest} {shown(value)}", script, flags, ())
                continue
            name = max(action.option_strings, key=len)
            for value in bad_values(action):
                title = f"{name} {shown(value)}"
                yield Case(KIND, title, script, (*good, f"{name}={value}"), (name,))
            if action.nargs is None:
                yield Case(KIND, f"{name} without a value", script, (*good, name), (name,))
            if name[:-1] not in every:
                yield Case(KIND, f"{name} cut short", script, (*good, name[:-1], "1"), (name[:-1],))
        yield Case(KIND, "an unknown flag", script, (*good, "--no-such-flag"), ("--no-such-flag",))


def shown(value: str) -> str:
    """A value in a title."""
    return repr(value) if len(value) < 40 else f"of {len(value)} characters"
