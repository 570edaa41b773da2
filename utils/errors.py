"""What a user can put right is one line and exit status 2, never a traceback."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dataset import DataError
from model.weights import WeightsError
from utils.stopping import Stopped

BAD_INPUT = 2  # exit status
INTERRUPTED = 130  # exit status of a script stopped by Ctrl-C
# A process other than the main one holds its message back so long: if the main one failed of the same, as
# of a wrong flag, torchrun ends all within this time, and the user reads one line instead of eight.
MAIN_SPEAKS_FIRST = 5.0  # seconds


class UserError(Exception):
    """One line that names the file or flag and says what to do."""


def exit_with_error(line: str) -> NoReturn:
    """Print one line on standard error and leave with exit status 2."""
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(MAIN_SPEAKS_FIRST)
        line = f"[process {rank}] {line}"
    print(printable(line), file=sys.stderr, flush=True)
    sys.exit(BAD_INPUT)


def printable(text: str) -> str:
    """The text with what would steer a terminal, or is no text, as escapes: names come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; print a `UserError` as one line and leave with exit status 2.

    A training that a signal stopped leaves with 128 + its number (SIGTERM 143, Ctrl-C 130), having saved.
    """
    try:
        main()
    except (UserError, DataError, WeightsError) as error:
        message = " ".join(str(error).split())
        exit_with_error(f"{Path(sys.argv[0]).name}: error: {message}")
    except OSError as error:
        if error.filename is None:
            raise
        # What nobody foresaw of a file, as a folder that loses its rights meanwhile, is still not our fault.
        exit_with_error(
            f"{Path(sys.argv[0]).name}: error: {os.fsdecode(error.filename)}: {error.strerror}; put it there "
            "or make it accessible"
        )
    except Stopped as stopped:
        print(f"{Path(sys.argv[0]).name}: {stopped}", file=sys.stderr, flush=True)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
