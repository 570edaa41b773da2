"""The line that says how far a training is: in a terminal, and in a file."""

import io
import logging
import os
import select
import struct
import sys
from types import SimpleNamespace

import pytest

from engine.progress import ProgressLine, log_handler

LOSSES = {"seg1": 2.5, "seg2": 1.25, "kl": 0.0}
RATES = {"lr": 2e-4, "lr_D": 1e-4}


@pytest.fixture
def terminal():
    """A terminal to write to, and a function that reads what it showed."""
    pty = pytest.importorskip("pty")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 150, 0, 0))  # rows, columns

    def shown() -> str:
        stream.flush()
        read = b""
        while select.select([ours], [], [], 0.5)[0]:
            read += os.read(ours, 1 << 16)
        return read.decode()

    yield stream, shown
    stream.close()
    os.close(ours)


def test_in_a_terminal_one_line_stays_in_place_and_messages_stand_above_it(terminal, monkeypatch):
    stream, shown = terminal
    monkeypatch.setattr(sys, "stdout", stream)
    handler = log_handler(sys.stdout)
    message = logging.LogRecord("x", logging.INFO, "", 0, "Saved snapshots/GTA5_6.pth", None, None)
    line = ProgressLine(5, 20)
    for i_iter in (5, 6):
        line.step(i_iter)
    line.show(6, LOSSES, RATES)
    handler.emit(message)
    line.step(7)
    line.close()
    rows = shown().replace("\r\n", "\n").split("\n")
    saved = [row for row in rows if "Saved snapshots/GTA5_6.pth" in row]
    assert len(saved) == 1 and saved[0].split("\r")[-1] == "Saved snapshots/GTA5_6.pth"
    last = rows[-2].split("\r")[-1]  # what stays when the run has ended
    assert last.startswith("8/20 ") and "left" in last and "seg1 2.5  seg2 1.25  lr 2.0e-04" in last
    assert "kl" not in last  # a loss that is off
    assert sum("8/20" in row for row in rows) == 1  # drawn in place


def test_in_a_file_each_call_is_a_line_with_speed_and_time_left(monkeypatch, caplog):
    clock = iter([0.0, 10.0, 40.0])
    monkeypatch.setattr("engine.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with caplog.at_level(logging.INFO):
        line = ProgressLine(0, 10_000)
        for i_iter in range(21):
            line.step(i_iter)
            if i_iter in (19, 20):
                line.show(i_iter, LOSSES, RATES)
    fast, slow = caplog.messages
    assert fast == "    19/10000  seg1 2.5  seg2 1.25  lr 2.0e-04  lr_D 1.0e-04  2.00 it/s  1:23:10 left"
    assert slow.endswith("30.00 s/it  83:09:30 left") and "\r" not in fast + slow
