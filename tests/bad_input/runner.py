"""A case of bad input, and the sandbox in which a script must refuse it in one line without doing harm."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

from tests.conftest import run_in

TIME_LIMIT = 60  # seconds
MEMORY = 6 * 2**30  # bytes on top of what the process uses
BYPASS_RIGHTS = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: root reads what it has no rights to
CAPABILITY_VERSION = 0x20080522
SHOWN = 2000  # characters of output in a failure


def nothing(*_) -> None:
    """Spoils nothing."""


@dataclass(frozen=True)
class Case:
    """A run of a script that must be refused.

    Args:
        name: what is wrong, unique within its kind.
        script: without `.py`.
        flags: all of them.
        named: what the error line must name.
        spoil: called with the world's folder before the run.
        within: context of the run: limits, files that vanish.
        adds: patterns of files that the run may leave behind; existing files may never change.
        takes: files that `within` removes.
    """

    name: str
    script: str
    flags: tuple[str, ...]
    named: tuple[str, ...] = ()
    spoil: Callable[[Path], object] = nothing
    within: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    adds: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


class Sandbox:
    """A copy of a template folder: the world that scripts run in, and outside it what they must not touch.

    Cases run one after another in the same copy, which is repaired after each.
    """

    def __init__(self, template: Path, copy: Path):
        shutil.copytree(template, copy, symlinks=True)
        self.template, self.copy, self.world = template, copy, copy / "world"
        self.pristine = tree(copy)

    def refuse(self, cases: Iterable[Case]) -> dict[str, list[str]]:
        """Run cases; returns what is wrong with the refusal of each, if anything."""
        return {case.name: found for case in cases if (found := self._run(case, refused=True))}

    def accept(self, cases: Iterable[Case]) -> dict[str, list[str]]:
        """Run cases of good input; returns what the failing ones print."""
        return {case.name: found for case in cases if (found := self._run(case, refused=False))}

    def _run(self, case: Case, refused: bool) -> list[str]:
        case.spoil(self.world)
        before = tree(self.copy)
        home = {"TORCH_HOME": str(self.copy / "cache"), "TMPDIR": str(self.copy / "tmp")}
        try:
            with mock.patch.dict(os.environ, home), bounded(), obeying_rights(), case.within():
                result = run_in(self.world, case.script, *case.flags)
        except BaseException as error:
            return [f"{error!r} in {traceback.format_exc()[-SHOWN:]}"]
        else:
            status, said = result.returncode, result.stderr[:SHOWN] + result.stdout[-SHOWN:]
            if not refused:
                return [said] if status or result.stderr else []
            found = [f"exit status {status}"] if status != 2 else []
            found += refusal_problems(case, result.stderr, result.stdout)
            found += harm(case, before, tree(self.copy))
            return [*found, said] if found else []
        finally:
            self._repair()

    def _repair(self) -> None:
        for folder, names, _ in os.walk(self.copy):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o755)
        now = tree(self.copy)
        for name in sorted(name for name in now if now[name] != self.pristine.get(name)):
            path, original = self.copy / name, self.template / name
            if path.is_dir() and not path.is_symlink():
                if not (original.is_dir() and not original.is_symlink()):
                    shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name in self.pristine:
            path, original = self.copy / name, self.template / name
            if original.is_dir():
                path.mkdir(exist_ok=True)
                shutil.copystat(original, path)
            elif not os.path.lexists(path):
                shutil.copy2(original, path, follow_symlinks=False)


def refusal_problems(case: Case, errors: str, output: str) -> list[str]:
    """How the text of a refusal differs from one line that names what is wrong and says what to do."""
    lines = errors.splitlines()
    line = lines[-1] if lines else ""
    wrong = {
        f"{len(lines)} lines on standard error": len(lines) != 1,
        "a traceback": "Traceback" in output + errors,
        "the script is not named": not line.startswith(f"{case.script}.py: error: "),
        "the line does not say what to do": ";" not in line and "--help" not in line,
        "control characters": not line.isprintable(),
    }
    wrong |= {f"{text!r} is not named": text not in line for text in case.named}
    return [problem for problem, present in wrong.items() if present]


def harm(case: Case, before: dict[str, tuple], after: dict[str, tuple]) -> list[str]:
    """Files that the run changed, removed, or left although it may not."""
    taken = [f"world/{path}" for path in case.takes]
    allowed = [f"world/{pattern}" for pattern in case.adds]
    parents = {str(parent) for pattern in allowed for parent in Path(pattern).parents}
    changed = [path for path in before if after.get(path) != before[path] and path not in taken]
    left = [
        path
        for path in after.keys() - before.keys()
        if path not in parents
        and (path.endswith(".part") or not any(fnmatch(path, pattern) for pattern in allowed))
    ]
    return [f"{path} was changed" for path in changed] + [f"{path} was left" for path in left]


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder by relative name, with what shows that it was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        changes = (os.readlink(path),) if path.is_symlink() else ()
        if path.is_file() and not path.is_symlink():
            changes = (state.st_size, state.st_mtime_ns)
        found[str(path.relative_to(folder))] = (state.st_mode, *changes)
    return found


class Hanging(BaseException):
    """A case that took longer than `TIME_LIMIT`."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Stop a case that hangs, and give one that would take all memory a `MemoryError`."""

    def stop(*_) -> None:
        raise Hanging

    earlier = signal.signal(signal.SIGALRM, stop)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    signal.alarm(TIME_LIMIT)
    try:
        with limited(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@contextlib.contextmanager
def limited(what: int, limit: int) -> Iterator[None]:
    """A lower soft limit of a resource."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can grow beyond `limit` bytes, as on a full disk."""
    earlier = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with limited(resource.RLIMIT_FSIZE, limit):
            yield
    finally:
        signal.signal(signal.SIGXFSZ, earlier)


@contextlib.contextmanager
def obeying_rights() -> Iterator[None]:
    """Rights of files hold for this process too if it is root's."""
    root = not os.geteuid() and sys.platform.startswith("linux")
    if root:
        _set_capabilities(lambda bits, bit: bits & ~bit)
    try:
        yield
    finally:
        if root:
            _set_capabilities(lambda bits, bit: bits | bit)


def _set_capabilities(change: Callable[[int, int], int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 capabilities
    libc.capget(header, sets)
    for capability in BYPASS_RIGHTS:
        sets[0] = change(sets[0], 1 << capability) & sets[1]
    libc.capset(header, sets)
