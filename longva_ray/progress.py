"""Progress of long work: a bar for a person at a terminal, a line now and then in a log.

    with Progress("encoding", unit="frames", total=3000) as progress:
        progress.advance(64)

Job logs and CI are no terminals, so they get plain lines, at most one every `LOG_INTERVAL_S`
seconds, and no control characters. Work that turns out to be done already says nothing.
"""

import datetime
import logging
import sys
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0


UNEVEN_SHARE = 0.05
"""Of work in units of very different size, how much must be done before the rest can be guessed."""


class Progress:
    """Counts units of work and shows the rate; use it as a context manager."""

    def __init__(
        self, title: str, *, unit: str, total: int | None = None, uneven: bool = False
    ) -> None:
        """
        Args:
            uneven: units take very different times, so the first ones say nothing about the rest.
        """
        self._title = title
        self._uneven = uneven
        self._unit = unit
        self._total = total
        self._done = 0
        self._before = 0
        self._note = ""
        self._started = self._last_log = time.monotonic()
        self._bar = _bar(title, unit, total) if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.live.transient = self._done == 0
            self._bar.stop()
        elif self._done > 0:
            self._log()

    def advance(self, amount: int) -> None:
        """Count `amount` more units as done."""
        self._show(self._done + amount, "")

    def reach(self, done: int, note: str) -> None:
        """Say how far the whole work is, and something about it.

        What was done by the first call does not count for the rate: it may be work of an earlier
        run, or warmup.
        """
        if self._done == 0:
            self._before, self._started = done, time.monotonic()
        self._show(done, note)

    def _show(self, done: int, note: str) -> None:
        self._done, self._note = done, note
        if self._bar is not None:
            shown = ", ".join(filter(None, (note, self._remaining())))
            (task,) = self._bar.task_ids
            self._bar.update(task, completed=done, rate=self._rate(), note=shown)
        elif done > 0 and time.monotonic() - self._last_log > LOG_INTERVAL_S:
            self._log()

    def _rate(self) -> str:
        done = self._done - self._before
        if done <= 0:
            return ""
        seconds = max(time.monotonic() - self._started, 1e-9) / done
        return f"{1 / seconds:.1f} {self._unit}/s" if seconds <= 1 else f"{seconds:.1f} s each"

    def _remaining(self) -> str:
        """Time to the end at the rate so far; empty when the rate or the end is unknown."""
        done = self._done - self._before
        if self._total is None or done <= 0:
            return ""
        if self._uneven and done < UNEVEN_SHARE * self._total:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self._total - self._done)
        return f"{datetime.timedelta(seconds=round(seconds))} left"

    def _log(self) -> None:
        self._last_log = time.monotonic()
        of_total = f" of {self._total}" if self._total is not None else ""
        left = self._remaining() if self._done != self._total else ""
        said = (f"{self._done}{of_total} {self._unit}", self._rate(), self._note, left)
        logger.info("%s: %s", self._title, ", ".join(filter(None, said)))


def _bar(title: str, unit: str, total: int | None) -> Any:
    """A bar on standard error with one task."""
    import rich.console
    import rich.progress

    bar = rich.progress.Progress(
        rich.progress.TextColumn(title),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.completed:.0f} {task.fields[unit]}"),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TextColumn("{task.fields[note]}"),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
    )
    bar.add_task(title, total=total, unit=unit, rate="", note="")
    return bar
