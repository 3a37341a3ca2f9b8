"""Progress of long work: a bar for a person at a terminal, a line now and then in a log.

    with Progress("encoding", unit="frames", total=3000) as progress:
        progress.advance(64)

Job logs and CI are no terminals, so they get plain lines at most every `LOG_INTERVAL_S` seconds and
no control characters."""

import datetime
import logging
import sys
import time
from types import TracebackType

import rich.progress

logger = logging.getLogger(__name__)


LOG_INTERVAL_S = 10.0


class Progress:
    """Counts units of work and shows the rate; use it as a context manager."""

    def __init__(self, title: str, *, unit: str, total: int | None = None) -> None:
        self._title = title
        self._unit = unit
        self._total = total
        self._done = 0
        self._before = 0
        self._note = ""
        self._started = self._last_log = time.monotonic()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn(title),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.completed:.0f} {task.fields[unit]}"),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TextColumn("{task.fields[note]}"),
            rich.progress.TimeElapsedColumn(),
            disable=not sys.stderr.isatty(),
            console=rich.console.Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=total, unit=unit, rate="", note="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._log()

    def advance(self, amount: int) -> None:
        """Count `amount` more units as done."""
        self._show(self._done + amount, "")

    def reach(self, done: int, note: str) -> None:
        """Say how far the whole work is, and something about it.

        What was done at the first call counts for no rate: work that is continued, and warmup.
        """
        if self._done == 0:
            self._before, self._started = done, time.monotonic()
        self._show(done, note)

    def _show(self, done: int, note: str) -> None:
        self._done, self._note = done, note
        shown = ", ".join(part for part in (note, self._remaining()) if part)
        self._bar.update(self._task, completed=done, rate=self._rate(), note=shown)
        if self._bar.disable and time.monotonic() - self._last_log > LOG_INTERVAL_S:
            self._log()

    def _rate(self) -> str:
        done = self._done - self._before
        if done <= 0:
            return ""
        seconds = max(time.monotonic() - self._started, 1e-9) / done
        return f"{1 / seconds:.1f} {self._unit}/s" if seconds <= 1 else f"{seconds:.1f} s each"

    def _remaining(self) -> str:
        """Time to the end at the rate so far; empty when either is unknown."""
        done = self._done - self._before
        if self._total is None or done <= 0:
            return ""
        seconds = (time.monotonic() - self._started) / done * (self._total - self._done)
        return f"{datetime.timedelta(seconds=round(seconds))} left"

    def _log(self) -> None:
        self._last_log = time.monotonic()
        of_total = f" of {self._total}" if self._total is not None else ""
        parts = [
            f"{self._done}{of_total} {self._unit}",
            self._rate(),
            self._note,
            self._remaining(),
        ]
        logger.info("%s: %s", self._title, ", ".join(part for part in parts if part))
