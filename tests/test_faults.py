"""Faults of the machine: processes that are killed, /dev/shm too small, too few open files."""

from utils.script import run_script as run_guarded

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from dataset.sampling import batches, load
from tests.bad_input.runner import limited
from tests.conftest import ROOT, TRAINING, one_line_error


class Squares(Dataset):
    """Small tensors."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.full((4,), index)}


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def start(world: Path, script: str, *flags: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / f"{script}.py"), *flags]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=world, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def ended(process: subprocess.Popen) -> subprocess.CompletedProcess:
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def wait_for(condition, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while not condition() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_training_whose_decoding_process_is_killed_saves_and_says_what_to_do(world):
    flags = (*TRAINING, "--num-workers", "1", "--num-steps", "100000", "--save-pred-every", "100000")
    process = start(world, "train_ms", *flags)
    log = world / "snapshots" / "log.jsonl"
    wait_for(lambda: log.is_file() and log.read_text().count("\n") > 2, process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    line = one_line_error(ended(process), "a decoding process was killed", "memory", "--num-workers")
    iteration = torch.load(world / "snapshots" / "training_state.pt", weights_only=True)["iteration"]
    assert f"(saved before iteration {iteration}; continue there with --resume)" in line and iteration > 2


def test_a_killed_worker_interrupts_nothing_but_the_wait_for_its_batch():
    loaded = batches(Squares(), batch_size=1, workers=1, pin_memory=False)
    next(loaded)
    os.kill(children(os.getpid())[-1], signal.SIGKILL)
    time.sleep(0.2)  # torch's handler would raise here
    with pytest.raises(Exception, match="a decoding process was killed"):
        list(loaded)


def few_files(limit: int):
    with limited(resource.RLIMIT_NOFILE, limit):
        list(load(range(8), workers=8))


def test_a_low_limit_of_open_files_is_raised_for_the_workers_where_it_may_be():
    open_now = len(os.listdir("/proc/self/fd"))
    few_files(open_now + 20)


def test_too_few_open_files_is_one_line(capsys):
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
    code += "from dataset.sampling import load; from utils.script import run_script; "
    code += "run_script(lambda: list(load(range(8), workers=8)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    one_line_error(done, "--num-workers 8", "this shell allows 40", "ulimit -n")


FAULTS = {
    "shared memory": RuntimeError(
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: No space left (28)"
    ),
    "semaphores": OSError(28, "No space left on device"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_small_shared_memory_is_named_with_what_enlarges_it(fault, monkeypatch, capsys):
    def failing(*_):
        raise FAULTS[fault]

    monkeypatch.setattr("multiprocessing.Queue", failing)
    with pytest.raises(SystemExit) as leaving:
        run_guarded(lambda: load(range(8), workers=1))
    (line,) = capsys.readouterr().err.splitlines()
    assert leaving.value.code == 2 and len(line) < 250
    assert "/dev/shm is full (" in line and "--shm-size" in line and "--num-workers 0" in line
