"""Standard output that is full, closed or read no further, and Ctrl-C while libraries load."""

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, TRAINING, one_line_error, write_gta5

CHECK = ("check_data", "gta5", "--num-workers", "0")  # its table is logged
LIST = ("tables", "--list")  # printed
HELP = ("tables", "--help")  # by argparse, which ends the process


def run_shell(line: str, script: str, *flags: str) -> subprocess.CompletedProcess:
    """A shell's line in which `$@` is a command of the project."""
    argv = ["bash", "-c", line, "bash", sys.executable, ROOT / f"{script}.py", *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


@pytest.fixture
def data(tmp_path, monkeypatch):
    write_gta5(tmp_path / "data/GTA5")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [CHECK, LIST, HELP], ids=["logged", "printed", "help"])
def test_a_text_that_cannot_be_written_is_an_error(command, data):
    full = run_shell('"$@" > /dev/full', *command)
    one_line_error(full, "standard output: cannot write (No space left on device)")


@pytest.mark.parametrize("command", [CHECK, LIST], ids=["logged", "printed"])
def test_a_pipe_that_nobody_reads_ends_quietly(command, data):
    done = run_shell('set -o pipefail; "$@" | head -0', *command)
    assert (done.returncode, done.stderr) == (0, "")


def test_standard_error_stands_in_for_a_closed_standard_output():
    done = run_shell('"$@" >&-', *LIST)
    assert done.returncode == 0 and "mrnet-2" in done.stderr


def test_a_training_goes_on_when_its_output_is_full(world):
    one_line_error(run_shell('"$@" > /dev/full', "train_ms", *TRAINING), "all files are written")
    assert (world / "snapshots/GTA5_4.pth").is_file() and (world / "snapshots/training_state.pt").is_file()


@pytest.mark.parametrize("script", ["train_ms", "tables"])
def test_ctrl_c_while_libraries_load_is_one_line(script):
    argv = [sys.executable, str(ROOT / f"{script}.py")]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # A shell's background job ignores Ctrl-C, and so would its children.
    process = subprocess.Popen(argv, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **pipes)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", f"{script}.py: interrupted\n")
