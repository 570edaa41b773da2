"""Scripts in processes that can be killed, forked from one that has imported everything to start at once."""

import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 120  # seconds
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.killed", "train_ms", "train_ft"])
# Where in a save: before a file is opened, with half of it written, before and after it takes its place.
PLACES = ("torch.save", "half", "os.fsync", "os.replace", "after os.replace")


@dataclass(frozen=True)
class Child:
    """How a script ended: its exit status, or minus the signal that killed it, and its output."""

    status: int
    output: str
    errors: str


def run_child(
    folder: Path,
    name: str,
    *flags: str,
    kill: float | tuple[str, int] | None = None,
    stop: tuple[int, Path, int] | None = None,
    largest_file: int | None = None,
) -> Child:
    """Run a script in `folder` and wait for its end.

    Args:
        kill: with SIGKILL, after this many seconds, or at the n-th call of one of `PLACES`.
        stop: send a signal once a file has this many lines.
        largest_file: bytes that a file may have, as with a quota.
    """
    outputs = [folder / f".{name}.{os.getpid()}.{time.monotonic_ns()}.{kind}" for kind in ("out", "err")]
    place = kill if isinstance(kill, tuple) else None
    process = FORKSERVER.Process(target=_work, args=(folder, name, flags, outputs, place, largest_file))
    process.start()
    began = time.monotonic()
    if isinstance(kill, float):
        process.join(kill)
        process.kill()
    if stop:
        number, path, lines = stop
        while process.is_alive() and (not path.is_file() or path.read_text().count("\n") < lines):
            assert time.monotonic() - began < TIMEOUT
            time.sleep(0.01)
        os.kill(process.pid, number)
    process.join(TIMEOUT)
    hangs = process.is_alive()
    process.kill()
    process.join()
    texts = [path.read_text() if path.is_file() else "" for path in outputs]
    for path in outputs:
        path.unlink(missing_ok=True)
    assert not hangs, texts
    return Child(process.exitcode, *texts)


def _work(
    folder: Path,
    name: str,
    flags: tuple[str, ...],
    outputs: list[Path],
    place: tuple[str, int] | None,
    largest_file: int | None,
) -> None:
    from utils.script import run_script

    import torch

    for number, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # of workers, the default
    torch.set_num_threads(1)
    sys.argv = [f"{name}.py", *flags]
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    logging.getLogger().handlers.clear()
    if place:
        _kill_at(*place)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    run_script(__import__(name).main)


def _kill_at(place: str, call: int) -> None:
    """Kill this process at the n-th call of one of `PLACES`, counted from 1."""
    import torch

    elsewhere = {"torch.save": (torch, "save"), "half": (Path, "write_bytes")}
    module, name = elsewhere.get(place, (os, place.split(".")[-1]))
    function, calls = getattr(module, name), 0

    def killing(*args, **options):
        nonlocal calls
        calls += 1
        if calls < call:
            return function(*args, **options)
        if place == "half":
            path, content = args
            function(path, content[: len(content) // 2])
        elif place.startswith("after"):
            function(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, killing)
