"""Run the project's scripts in dependency order, several at a time; a job whose result exists is skipped."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from engine.result_folders import is_unfinished
from utils.errors import UserError

PATIENCE = 60  # seconds that an interrupted script gets to save before it is killed
POLL = 0.1  # seconds between two checks of the running scripts
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A command, and the file or folder that exists once it has finished."""

    name: str
    command: str  # what follows `python` in a shell
    result: Path
    log: Path
    needs: tuple["Job", ...] = ()

    @property
    def line(self) -> str:
        """The command for a shell."""
        return f"python {self.command}"


def unfinished(jobs: Iterable[Job]) -> list[Job]:
    """The jobs without a result and what they need that has none either, each once, dependencies first."""
    ordered: dict[Job, None] = {}
    for job in jobs:
        if not job.result.exists() or is_unfinished(job.result.parent):
            ordered |= dict.fromkeys([*unfinished(job.needs), job])
    return list(ordered)


def run(jobs: Iterable[Job], workers: int = 1) -> None:
    """Run the unfinished jobs, at most `workers` at a time.

    An interrupted script is run again; a training resumes from the state it saved.

    Raises:
        UserError: a script failed; scripts that were running at the time were allowed to finish.
    """
    _stop_scripts_at_signals()
    waiting = unfinished(jobs)
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    failed: list[Job] = []
    try:
        while running or (waiting and not failed):
            missing = {*waiting, *running}
            ready = [job for job in waiting if not failed and missing.isdisjoint(job.needs)]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[job] = _start(job, workers), time.monotonic()
                log.info("%s started", job.name)
            time.sleep(POLL)
            for job in [job for job, (process, _) in running.items() if process.poll() is not None]:
                process, started = running.pop(job)
                if process.returncode:
                    failed.append(job)
                state = "FAILED" if process.returncode else "finished"
                duration = timedelta(seconds=round(time.monotonic() - started))
                log.info("%s %s in %s, %d to go", job.name, state, duration, len(waiting) + len(running))
    except BaseException:
        _stop([process for process, _ in running.values()])
        raise
    if failed:
        job = failed[0]
        last_line = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        raise UserError(f"failed: {job.line} (last line {last_line!r}, full log {job.log})")


def _stop_scripts_at_signals() -> None:
    """Let SIGTERM and a closed terminal end the running scripts as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell
        signal.signal(signal.SIGINT, lambda *_: None)  # so do the scripts, unless a function ignores it here


def _start(job: Job, workers: int) -> subprocess.Popen:
    """Start the script in its own session, so that Ctrl-C reaches it once, from `_stop`."""
    # A number in the environment, the user's or that of a runner around this one, already is a share.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a", encoding="utf-8") as output:
        print(f"$ {job.line}", file=output, flush=True)
        return subprocess.Popen(
            [sys.executable, *shlex.split(job.command)],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen]) -> None:
    """Interrupt the scripts as Ctrl-C would; kill those that take longer than `PATIENCE`."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
    finally:  # also at a second Ctrl-C
        for process in processes:
            process.kill()
