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

SECONDS = 120  # after which a child that hangs is a failure
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.killed", "train_ms", "train_ft"])


@dataclass(frozen=True)
class Child:
    """How a script ended: its exit status, minus the signal's number if one killed it, and what it said."""

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
        kill: with SIGKILL, after so many seconds, or at the n-th call of a function of `_kill_at`.
        stop: send a signal once a file has so many lines.
        largest_file: bytes that a file may have, as with a quota.
    """
    said = [folder / f".{name}.{os.getpid()}.{time.monotonic_ns()}.{kind}" for kind in ("out", "err")]
    moment = kill if isinstance(kill, tuple) else None
    process = FORKSERVER.Process(target=_work, args=(folder, name, flags, said, moment, largest_file))
    process.start()
    began = time.monotonic()
    if isinstance(kill, float):
        process.join(kill)
        process.kill()
    if stop:
        number, path, lines = stop
        while process.is_alive() and (not path.is_file() or path.read_text().count("\n") < lines):
            assert time.monotonic() - began < SECONDS
            time.sleep(0.01)
        os.kill(process.pid, number)
    process.join(SECONDS)
    hangs = process.is_alive()
    process.kill()
    process.join()
    texts = [path.read_text() if path.is_file() else "" for path in said]
    for path in said:
        path.unlink(missing_ok=True)
    assert not hangs, texts
    return Child(process.exitcode, *texts)


def _work(
    folder: Path, name: str, flags: tuple[str, ...], said: list[Path], moment: tuple[str, int] | None, largest
) -> None:
    import torch

    from utils.errors import run_script

    for number, path in zip((1, 2), said, strict=True):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as where nobody chooses
    torch.set_num_threads(1)
    sys.argv = [f"{name}.py", *flags]
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    logging.getLogger().handlers.clear()
    if moment:
        _kill_at(*moment)
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    run_script(__import__(name).main)


def _kill_at(place: str, call: int) -> None:
    """Kill this process at the n-th call of a function that saves, counted from the first on."""
    import torch

    calls = 0

    def killing(function, half=False, after=False):
        def wrapped(*args, **options):
            nonlocal calls
            calls += 1
            if calls < call:
                return function(*args, **options)
            if half:
                _write_half(*args)
            elif after:
                function(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    if place in ("torch.save", "half"):
        torch.save = killing(torch.save, half=place == "half")
    else:
        name = place.removeprefix("after ").removeprefix("os.")
        setattr(os, name, killing(getattr(os, name), after=place.startswith("after")))


def _write_half(content: dict, file) -> None:
    import io

    import torch.serialization

    whole = io.BytesIO()
    torch.serialization.save(content, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
