"""A case of bad input, and running a script on it in a forked process.

A new interpreter takes seconds to import torch; a fork of one that has done so takes milliseconds.
"""

import contextlib
import ctypes
import io
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

from tests.conftest import load_script
from utils.errors import BAD_INPUT, run_script

TIME_LIMIT = 60  # seconds, for cases that would hang
KILLED = -1  # status of a case that ran beyond it
MEMORY = 6 * 2**30  # bytes more than the parent has, for a case that would take all
PASS_OVER_RIGHTS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what makes root read what it may not
CAPABILITY_VERSION = 0x20080522
SHOWN = 2000  # characters of an output in a message


def nothing(*_) -> None:
    """Spoils nothing."""


@dataclass(frozen=True)
class Case:
    """A run of a script that must be refused.

    Args:
        kind: the row of the table that it counts in.
        name: what is wrong, unique within its kind and script.
        script: without `.py`.
        flags: all of them.
        named: what the line must name: the flag, the file.
        spoil: called with the world's folder before.
        within: called in the forked process before the script: limits, files that vanish.
        adds: patterns of files that may be left, relative to the world; what was there may never change.
        takes: files that the case itself takes away while the script runs.
    """

    kind: str
    name: str
    script: str
    flags: tuple[str, ...]
    named: tuple[str, ...]
    spoil: Callable[[Path], object] = nothing
    within: Callable[[], object] = nothing
    adds: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For people and for pytest's -k."""
        return f"{self.kind}: {self.script}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What a script left with and said."""

    status: int
    output: str
    errors: str


def run_forked(cases: Sequence[Case], worlds: Sequence[Path]) -> list[Outcome]:
    """Run cases one after another, each in its world, in one process that has everything imported."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder)
        child = os.fork()
        if not child:
            _become_scripts(cases, worlds, said)
        os.waitpid(child, 0)
        return [_outcome(said, number) for number in range(len(cases))]


def _outcome(said: Path, number: int) -> Outcome:
    def read(what: str) -> str | None:
        file = said / f"{number}-{what}"
        return file.read_bytes().decode("utf-8", "backslashreplace") if file.exists() else None

    return Outcome(int(read("status") or KILLED), read("stdout") or "", read("stderr") or "")


def _become_scripts(cases: Sequence[Case], worlds: Sequence[Path], said: Path) -> None:
    """What the forked process does; it never returns."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        torch.set_num_threads(1)
        obey_rights()
        limit_memory()
        for number, (case, world) in enumerate(zip(cases, worlds, strict=True)):
            signal.alarm(TIME_LIMIT)
            os.chdir(world)
            os.environ |= {"TORCH_HOME": str(world.parent / "cache"), "TMPDIR": str(world.parent / "tmp")}
            tempfile.tempdir = None
            status = _run_script(case, said, number)
            (said / f"{number}-status").write_text(str(status))
    finally:
        os._exit(0)


def _run_script(case: Case, said: Path, number: int) -> int:
    """Run a case's script as its file does at its end; the exit status."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(said / f"{number}-{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
        stream = io.TextIOWrapper(os.fdopen(descriptor, "wb", closefd=False), line_buffering=True)
        setattr(sys, name, stream)
    sys.stderr.reconfigure(errors="backslashreplace")  # as Python's own
    sys.argv = [f"{case.script}.py", *case.flags]
    status = 0
    try:
        case.within()
        run_script(load_script(case.script).main)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        status = 1
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def obey_rights() -> bool:
    """Let the rights of files hold for this process too, where it is root's; whether they do."""
    if os.geteuid():
        return True
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 capabilities
    if libc.capget(header, sets):
        return False
    for capability in PASS_OVER_RIGHTS:
        sets[0] &= ~(1 << capability) & 0xFFFFFFFF
    return not libc.capset(header, sets)


def limit_memory() -> None:
    """A case that would take all memory gets a `MemoryError` instead."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def full_disk(limit: int) -> Callable[[], None]:
    """Within the process no file can grow beyond so many bytes, as on a disk that is full."""

    def within() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return within


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder: kind, rights and content by relative name; a link is what it says."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (state.st_mode, content)
    return found


def problems(case: Case, outcome: Outcome, before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    """In what a refusal is not as it must be; paths of `before` and `after` are relative to the sandbox."""
    found = []
    if outcome.status != BAD_INPUT:
        found.append(f"left with status {outcome.status} instead of {BAD_INPUT}")
    lines = outcome.errors.splitlines()
    if len(lines) != 1:
        found.append(f"{len(lines)} lines on standard error instead of one")
    if "Traceback" in outcome.output + outcome.errors:
        found.append("a traceback")
    line = lines[-1] if lines else ""
    found += [f"{text!r} is not named" for text in case.named if text not in line]
    if not line.startswith(f"{case.script}.py: error: "):
        found.append("the line does not begin with the script's name")
    if not (";" in line or "--help" in line):
        found.append("the line says what is wrong and not what to do")
    if not line.isprintable():
        found.append("the line holds control characters")
    taken = [f"world/{path}" for path in case.takes]
    found += [
        f"{path} was changed or is gone"
        for path in before
        if after.get(path) != before[path] and path not in taken
    ]
    allowed = [f"world/{pattern}" for pattern in case.adds]
    parents = {str(parent) for pattern in allowed for parent in Path(pattern).parents}
    found += [
        f"{path} was left"
        for path in after.keys() - before.keys()
        if path not in parents
        and (path.endswith(".part") or not any(fnmatch(path, pattern) for pattern in allowed))
    ]
    if found:
        found.append(f"it said: {outcome.errors[:SHOWN]} {outcome.output[-SHOWN:]}")
    return found
