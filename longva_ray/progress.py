"""Progress of long work: a bar for a person at a terminal, a line now and then in a log.

    with Progress("encoding", unit="frames", total=3000) as progress:
        progress.advance(64)

Job logs and CI are no terminals, so they get plain lines at most every `LOG_INTERVAL_S` seconds and
no control characters."""

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
        self._started = self._last_log = time.monotonic()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn(title),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.completed:.0f} {task.fields[unit]}"),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeElapsedColumn(),
            disable=not sys.stderr.isatty(),
            console=rich.console.Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=total, unit=unit, rate="")

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
        self._done += amount
        self._bar.update(self._task, completed=self._done, rate=self._rate())
        if self._bar.disable and time.monotonic() - self._last_log > LOG_INTERVAL_S:
            self._log()

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._started
        return f"{self._done / max(elapsed, 1e-9):.1f} {self._unit}/s"

    def _log(self) -> None:
        self._last_log = time.monotonic()
        of_total = f" of {self._total}" if self._total is not None else ""
        logger.info("%s: %d%s %s, %s", self._title, self._done, of_total, self._unit, self._rate())
