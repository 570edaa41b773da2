"""How far a training is: one line that stays in place in a terminal, a line now and then in a file."""

import logging
import sys
import time
from typing import TextIO

from tqdm import tqdm

log = logging.getLogger(__name__)


class _AroundBars(logging.StreamHandler):
    """Writes messages above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def log_handler(stream: TextIO) -> logging.Handler:
    """A handler of log messages on a stream that may show a progress bar too."""
    return _AroundBars(stream)


class ProgressLine:
    """Iteration, losses, rates, speed and time left.

    In a terminal a bar that is drawn again in place; elsewhere a log message each time that `show` is called.

    Args:
        start, total: the first iteration and the number of all.
    """

    def __init__(self, start: int, total: int):
        self.total = total
        self.last_time, self.last_iteration = time.monotonic(), start - 1
        terminal = sys.stdout.isatty()
        self.bar = None
        if terminal:
            self.bar = tqdm(
                initial=start,
                total=total,
                file=sys.stdout,
                dynamic_ncols=True,
                bar_format="{n_fmt}/{total_fmt} {bar:10} {remaining} left, {rate_fmt}{postfix}",
                unit="it",
            )

    def step(self, i_iter: int) -> None:
        """An iteration is done, or at least under way on the device."""
        if self.bar is not None:
            self.bar.update()

    def show(self, i_iter: int, losses: dict[str, float], rates: dict[str, float]) -> None:
        """Say what the losses, those that are not 0, and the rates are at an iteration."""
        terms = "  ".join(f"{name} {value:.3g}" for name, value in losses.items() if value)
        words = f"{terms}  " + "  ".join(f"{name} {value:.1e}" for name, value in rates.items())
        if self.bar is not None:
            self.bar.set_postfix_str(words, refresh=True)
            return
        now = time.monotonic()
        speed = (i_iter - self.last_iteration) / max(now - self.last_time, 1e-9)
        self.last_time, self.last_iteration = now, i_iter
        left = int((self.total - 1 - i_iter) / speed)
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        pace = f"{speed:.2f} it/s" if speed >= 1 else f"{1 / speed:.2f} s/it"
        log.info("%6d/%d  %s  %s  %s left", i_iter, self.total, words, pace, clock)

    def close(self) -> None:
        """Leave the last state of the bar standing."""
        if self.bar is not None:
            self.bar.close()
