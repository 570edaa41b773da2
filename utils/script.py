"""How a script starts and ends: one line and status 2 for what the user can fix, 128 + n after a signal.

Scripts import this before anything else, so that Ctrl-C while the libraries load ends in one line too.
"""

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # exit status after Ctrl-C
LOST = ("Timed out waiting", "closed by peer", "reset by peer", "Broken pipe")  # in messages of gloo and NCCL


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    os.write(2, f"{Path(sys.argv[0]).name}: interrupted\n".encode())
    os._exit(INTERRUPTED)


def _is_script() -> bool:
    """Whether the process was started as a script of this project, and not as a test or a worker."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return bool(started) and Path(started).resolve().parent == Path(__file__).resolve().parent.parent


if _is_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
    signal.signal(signal.SIGINT, _leave)


class _Output(io.FileIO):
    """Standard output that drops what cannot be written, so that a run goes on; `error` is the reason."""

    error: OSError | None = None

    def write(self, data: bytes) -> int:
        """As FileIO's."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            return len(data)


def _guard_output() -> _Output | None:
    """Put an `_Output` below `sys.stdout`; standard error stands in for one that was closed before."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    sys.stdout = sys.stdout or sys.stderr
    if sys.stdout is not sys.__stdout__:
        return None
    output, old = _Output(sys.stdout.fileno(), "w", closefd=False), sys.stdout
    at_once = old.line_buffering or old.write_through
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(output), old.encoding, old.errors, line_buffering=at_once)
    return output


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`, turning errors that the user can fix into one line on standard error.

    Exit status: 2 for those errors and for output that could not be written, 143 after SIGTERM, 130 after
    Ctrl-C.
    """
    from dataset import DataError  # these load libraries
    from model.weights import WeightsError
    from utils.errors import BAD_INPUT, Stopped, UserError, exit_with_error

    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    script, output = Path(sys.argv[0]).name, _guard_output()
    try:
        try:
            main()
        except SystemExit as ended:
            if ended.code:  # else --help, which is output too
                raise
        sys.stdout.flush()
        if output and output.error and not isinstance(output.error, BrokenPipeError):
            advice = "free space or send the text elsewhere; all files are written"
            raise UserError(f"standard output: cannot write ({output.error.strerror}); {advice}")
    except (UserError, DataError, WeightsError) as error:
        exit_with_error(f"{script}: error: {' '.join(str(error).split())}")
    except OSError as error:
        if error.filename is None:
            raise
        # Unexpected file errors, such as permissions that change during a run, get one line too.
        name = os.fsdecode(error.filename)
        exit_with_error(f"{script}: error: {name}: {error.strerror}; check that it exists and is accessible")
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0]
        try:
            exit_with_error(
                f"{script}: error: torchrun: another process ended or no longer answers; see its message, "
                f"then start again, a training with --resume ({reason})"
            )
        finally:
            os._exit(BAD_INPUT)  # Python's own end would abort: gloo's threads still wait
    except Stopped as stopped:
        exit_with_error(f"{script}: {stopped}", stopped.status)
    except KeyboardInterrupt:
        exit_with_error(f"{script}: interrupted", INTERRUPTED)
