"""Many runs of the project's scripts: each once, in dependency order, recorded when it is finished.

A job is a command and the folder it fills. Finished, it leaves a record of its exact command; a later
campaign skips it. What a stopped job left is kept beside under another name, and the job starts afresh.
"""

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

from utils.atomic import atomic_write
from utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has none: two campaigns in one folder are then not noticed
    fcntl = None

PATIENCE = 10  # seconds that a job told to stop gets before it is killed
POLL = 0.1  # seconds between two looks at the running jobs
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A command, the folder it fills, and the jobs whose results it reads.

    Args:
        name: unique below `home`; record and log are named after it.
        command: what follows `python`.
        home: folder of the records and logs.
        folder: what the command fills.
        needs: jobs that come before.
    """

    name: str
    command: tuple[str, ...]
    home: Path
    folder: Path
    needs: tuple["Job", ...] = ()

    @property
    def line(self) -> str:
        """The command for a shell."""
        return shlex.join(("python", *self.command))

    @property
    def title(self) -> str:
        return f"{self.home.name}/{self.name}"

    @property
    def record(self) -> Path:
        return self.home / "records" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.home / "logs" / f"{self.name}.txt"

    def read_record(self, base: Path) -> dict | None:
        """What was recorded when the job was finished, None if it is not; paths are relative to `base`.

        Raises:
            UserError: the record cannot be read, or is of another command.
        """
        path = base / self.record
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            recorded, _, _ = record["command"], record["run"], record["reads"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not a readable record ({error}); remove it to run its job again"
            ) from error
        if recorded != self.line:
            raise UserError(
                f"{path}: this job was finished with another command than today's; choose another --out"
            )
        return record

    def half_made(self, base: Path) -> bool:
        """Whether its folder holds something."""
        folder = base / self.folder
        return folder.is_dir() and any(folder.iterdir())


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """The jobs and all they need, each once, what is needed first.

    Raises:
        ValueError: two different jobs share a record or a folder.
    """
    ordered: dict[Job, None] = {}

    def visit(job: Job) -> None:
        if job not in ordered:
            for needed in job.needs:
                visit(needed)
            ordered[job] = None

    for job in jobs:
        visit(job)
    for place in ("record", "folder"):
        if len({getattr(job, place) for job in ordered}) < len(ordered):
            raise ValueError(f"two jobs share a {place}")
    return list(ordered)


def finished(jobs: Iterable[Job], base: Path) -> dict[Job, dict]:
    """Records of those of the jobs, given with all they need, that are finished.

    Raises:
        UserError: a record cannot be used, or is of a job that read what has been or is to be made anew.
    """
    jobs = list(jobs)
    found = {job: job.read_record(base) for job in jobs}
    records = {job: record for job, record in found.items() if record}
    for job, record in records.items():
        for needed in job.needs:
            if needed not in records or record["reads"].get(needed.name) != records[needed]["run"]:
                raise UserError(
                    f"{base / job.record}: this job read an earlier result of {needed.title}; remove this "
                    "record too, or choose another --out"
                )
    return records


def dry_run(jobs: Iterable[Job], base: Path) -> list[str]:
    """The commands in order as lines for a shell in `base`; what is finished or would be moved is a comment.

    Raises:
        UserError: as `finished`.
    """
    lines, ordered = [], in_order(jobs)
    records = finished(ordered, base)
    for job in ordered:
        if job not in records and job.half_made(base):
            lines.append(f"# half made: {job.folder} would become {_free_name(base / job.folder).name}")
        lines.append(f"# done: {job.line}" if job in records else job.line)
    return lines


def run(jobs: Iterable[Job], base: Path, lock_folder: Path, side_by_side: int = 1) -> None:
    """Run what is not finished, at most `side_by_side` jobs at a time, each in `base`.

    Raises:
        UserError: another campaign holds `lock_folder`, a record cannot be used, or a job failed; jobs that
            ran beside it were let finish.
    """
    with locked(lock_folder) as lock:
        ordered = in_order(jobs)
        records = finished(ordered, base)
        missing = [job for job in ordered if job not in records]
        for job in missing:
            for needed in job.needs:
                if needed in records and not (base / needed.folder).exists():
                    raise UserError(
                        f"{needed.folder}: gone, and {job.title} needs it; remove {base / needed.record} to "
                        "make it again"
                    )
        if records:
            log.info("%d of %d jobs are finished already", len(records), len(ordered))
        _Runner(missing, records, base, side_by_side, lock).run()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[IO]:
    """Hold the folder's lock file; the jobs inherit it, so that one that outlives its driver holds it too.

    Raises:
        UserError: another process holds it.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); choose another --out") from error
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{folder}: another run is at work here; wait for it or choose another --out"
                ) from None
            except OSError as error:
                log.warning("%s: no lock (%s); start no second run in this folder", path, error.strerror)
        yield file


@dataclass
class _Running:
    job: Job
    number: int
    process: subprocess.Popen
    started: float


class _Runner:
    """Starts jobs whose needs are done and collects them, until none is left or one fails."""

    def __init__(self, missing: list[Job], records: dict[Job, dict], base: Path, side_by_side: int, lock: IO):
        self.waiting, self.records, self.base, self.lock = list(missing), dict(records), base, lock
        self.side_by_side, self.total, self.ended = side_by_side, len(missing), 0
        self.running: list[_Running] = []
        self.failure: str | None = None

    def run(self) -> None:
        """Run all; an interruption stops the running ones first."""
        try:
            while self.running or (self.waiting and not self.failure):
                if not self.failure:
                    self._start_ready()
                self._collect()
        except BaseException:
            self._stop()
            raise
        if self.failure:
            raise UserError(self.failure)

    def _start_ready(self) -> None:
        for job in [job for job in self.waiting if all(needed in self.records for needed in job.needs)]:
            if len(self.running) == self.side_by_side:
                return
            self.waiting.remove(job)
            number = self.ended + len(self.running) + 1
            self.running.append(_Running(job, number, self._start(job), time.monotonic()))
            log.info("job %d of %d: %s started", number, self.total, job.title)

    def _start(self, job: Job) -> subprocess.Popen:
        """In a session of its own, so that it and its decoding processes can be stopped together."""
        _keep_aside(job, self.base)
        path, posix = self.base / job.log, os.name == "posix"
        threads = str(max(1, (os.cpu_count() or 1) // self.side_by_side))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as output:
                output.write(f"$ {job.line}\n")
                output.flush()
                return subprocess.Popen(
                    [sys.executable, *job.command],
                    cwd=self.base,
                    env=os.environ | {"OMP_NUM_THREADS": threads},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=posix,
                    pass_fds=(self.lock.fileno(),) if posix else (),
                )
        except OSError as error:
            raise UserError(f"{path}: cannot start {job.title} ({error})") from error

    def _collect(self) -> None:
        """Record what has ended; waits a moment where nothing has."""
        ended = [running for running in self.running if running.process.poll() is not None]
        for running in ended:
            self.running.remove(running)
            self.ended += 1
            seconds = time.monotonic() - running.started
            duration = timedelta(seconds=round(seconds))
            job, status = running.job, running.process.returncode
            of = f"job {running.number} of {self.total}: {job.title}"
            if status:
                self.failure = self.failure or self._failure(job, status)
                left = f"; waiting for {len(self.running)} beside it" if self.running else ""
                log.info("%s FAILED with status %d after %s%s", of, status, duration, left)
                continue
            self._record(job, seconds)
            log.info("%s done in %s, %d left", of, duration, self.total - self.ended)
        if not ended:
            time.sleep(POLL)

    def _record(self, job: Job, seconds: float) -> None:
        """Write that the job is finished: its command, and which runs of other jobs it read."""
        record = {
            "command": job.line,
            "run": uuid.uuid4().hex,
            "reads": {needed.name: self.records[needed]["run"] for needed in job.needs},
            "seconds": round(seconds, 1),
            "ended": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        text = json.dumps(record, indent=1)
        atomic_write(self.base / job.record, lambda aside: aside.write_text(text, encoding="utf-8"))
        self.records[job] = record

    def _failure(self, job: Job, status: int) -> str:
        said = (self.base / job.log).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        said = "nothing" if said.startswith("$ ") else repr(said)
        return f"status {status} from: {job.line} (it last said {said}; all of it in {self.base / job.log})"

    def _stop(self) -> None:
        """End the running jobs: first as Ctrl-C would."""
        for number, wait in ((signal.SIGINT, PATIENCE), (getattr(signal, "SIGKILL", None), None)):
            for running in self.running:
                _signal(running.process, number)
            deadline = time.monotonic() + (wait or 0)
            for running in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(max(0.1, deadline - time.monotonic()) if wait else None)


def _signal(process: subprocess.Popen, number: int | None) -> None:
    """To the process and those it started."""
    if os.name != "posix":
        process.terminate()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _keep_aside(job: Job, base: Path) -> None:
    """Rename what a stopped run of the job left."""
    if job.half_made(base):
        folder = base / job.folder
        aside = _free_name(folder)
        try:
            folder.rename(aside)
        except OSError as error:
            raise UserError(f"{folder}: cannot be renamed ({error.strerror})") from error
        log.info("%s: half made by a run that was stopped; kept as %s", job.folder, aside.name)


def _free_name(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.stopped-{number}")).exists():
        number += 1
    return aside
