"""Bad lists: empty, no text, names that leave the data folder, stand twice or have no file."""

from collections.abc import Iterator
from pathlib import Path

from tests.bad_input.case import Case
from tests.bad_input.world import GOOD, NAMES, OWN, SCORING

KIND = "lists of names"
FILE = "list.txt"
LONG = "n" * 300 + ".png"  # no file system has such a name


def _write(content: bytes | str):
    def spoil(world: Path) -> None:
        (world / FILE).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def _folder(world: Path) -> None:
    (world / FILE).mkdir()


def _unreadable(world: Path) -> None:
    (world / FILE).write_text("00001.png\n")
    (world / FILE).chmod(0)


def _loop(world: Path) -> None:
    (world / FILE).symlink_to(FILE)


# What is wrong with any list -> how it is made, what the line names.
LISTS = {
    "missing": (lambda world: None, [FILE]),
    "empty": (_write(""), [FILE, "empty"]),
    "blank lines": (_write(" \n\t\n\r\n"), [FILE, "empty"]),
    "a folder": (_folder, [FILE]),
    "without rights": (_unreadable, [FILE, "Permission denied"]),
    "a link to itself": (_loop, [FILE]),
    "binary": (_write(bytes(range(256)) * 4), [FILE]),
    "UTF-16": (_write("00001.png\n".encode("utf-16")), [FILE]),
    "Latin-1": (_write("stra\xdfe.png\n".encode("latin-1")), [FILE]),
    "an endless file": (lambda world: (world / FILE).symlink_to("/dev/zero"), [FILE]),
    "zero bytes": (_write(bytes(1000)), [FILE]),
}
# A name that leaves the data folder.
LEAVING = {
    "up": "../../../../outside/image.png",
    "up from within": "aachen/../../../../../outside/image.png",
    "up and nothing else": "..",
    "absolute": "/etc/hostname",
    "absolute with two slashes": "//etc/hostname",
    "up in Windows' spelling": "..\\..\\outside\\image.png",
    "up in mixed spelling": "aachen\\../..\\outside/image.png",
    "a Windows drive": "C:\\outside\\image.png",
    "a Windows drive without a slash": "C:image.png",
    "a Windows share": "\\\\server\\share\\image.png",
}
# A name that no file has.
ABSENT = {
    "no file": "nowhere.png",
    "the name of a folder": ".",
    "a name too long": LONG,
    "a path too long": "a/" * 3000 + "b.png",
    "a zero byte": "zero\0byte.png",
    "a terminal's control codes": "evil\x1b[2J\x1b[31m.png",
    "a name of options": "--help",
    "a URL": "https://example.org/image.png",
    "a home folder": "~/image.png",
    "a variable": "$HOME/image.png",
    "a command": "$(touch executed).png",
    "several on a line": "00001.png 00002.png",
}
_TRAIN, _FINE_TUNE, _SURVEY = GOOD["train_ms"], GOOD["train_ft"], GOOD["check_data"]
_GENERATE, _EVALUATE = GOOD["generate_plabel_cityscapes"], GOOD["evaluate_cityscapes"]
# Who reads a list -> the script, its other flags, the flag of the list, a name that is there.
READERS = {
    "source": ("train_ms", _TRAIN, "--data-list", "00001.png"),
    "target": ("train_ms", _TRAIN, "--data-list-target", NAMES[0]),
    "own": ("train_ms", (*_TRAIN, *OWN), "--data-list", "0.png"),
    "pseudo-labelled": ("train_ft", _FINE_TUNE, "--data-list", NAMES[0]),
    "predicted": ("generate_plabel_cityscapes", _GENERATE, "--data-list", NAMES[0]),
    "evaluated": ("evaluate_cityscapes", _EVALUATE, "--data-list", NAMES[0]),
    "files scored": ("evaluate_cityscapes", SCORING, "--data-list", NAMES[0]),
    "surveyed": ("check_data", _SURVEY, "--data-list", "00001.png"),
}
WRITERS = ("predicted", "evaluated", "files scored")  # a name that stands twice counts twice


def cases() -> Iterator[Case]:
    """Every list in every place where a script reads one."""
    for reader, (script, good, flag, name) in READERS.items():
        flags = (*good, flag, FILE)
        for what, (spoil, named) in LISTS.items():
            yield Case(KIND, f"{reader}: {what}", script, flags, tuple(named), spoil)
        for what, leaving in LEAVING.items():
            named = (FILE, leaving, "leaves the data folder")
            yield Case(KIND, f"{reader}: {what}", script, flags, named, _write(f"{name}\n{leaving}\n"))
        for what, absent in ABSENT.items():
            yield Case(KIND, f"{reader}: {what}", script, flags, (), _write(f"{name}\n{absent}\n"))
        if reader in WRITERS:
            for what, again in {"twice": name, "twice in two spellings": f"./{name}"}.items():
                named = (name, "each image once")
                yield Case(KIND, f"{reader}: {what}", script, flags, named, _write(f"{name}\n\n{again}\n"))
    flags = (*GOOD["train_ms"], "--data-list-target", FILE)
    yield Case(KIND, "of another set", "train_ms", flags, ("00001.png",), _write("00001.png\n"))


def accepted() -> Iterator[Case]:
    """Unusual lists that name what is there."""
    for reader, (script, good, flag, name) in READERS.items():
        for what, content in {
            "blank lines and Windows' ends": f"\r\n{name}\r\n\r\n",
            "a byte order mark": f"\ufeff{name}",
        }.items():
            yield Case(
                "good input is accepted",
                f"{reader}: {what}",
                script,
                (*good, flag, FILE),
                (),
                _write(content),
            )
