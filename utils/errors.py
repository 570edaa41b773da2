"""What a user can put right is one line and exit status 2, never a traceback."""

import sys
from collections.abc import Callable
from pathlib import Path

BAD_INPUT = 2  # exit status
INTERRUPTED = 130  # exit status of a run stopped by Ctrl-C


class UserError(Exception):
    """One line that names the file or flag and says what to do."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; print a `UserError` as one line and leave with exit status 2."""
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
