"""The driver's side of a run: progress for a person, numbers for trackers, signals for workers.

The training itself is waited for in a thread, so that this one is free to show what happens and to
hear SIGTERM (`ray job stop`) and Ctrl-C.
"""

import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from longva_ray.files.places import is_job
from longva_ray.progress import Progress
from longva_ray.settings.training import TrainConfig
from longva_ray.train.records import Outcome, StepRecord
from longva_ray.train.run.trackers import Trackers

logger = logging.getLogger(__name__)


POLL_S = 0.5


class Watch:
    """Follows one run.

    Raises ValueError for a tracker that is not installed.
    """

    def __init__(
        self,
        monitor: Any,
        config: TrainConfig,
        *,
        folder: Path,
        name: str,
        publish: Callable[[], None],
    ) -> None:
        """
        Args:
            monitor: a handle on a `monitor.Monitor` actor.
            folder: where trackers write.
            publish: brings it to the run's storage; called after a checkpoint is due.
        """
        self._monitor = monitor
        self._publish = publish
        self._config = config
        self._name = name
        self._records: list[StepRecord] = []
        self._held_out = ""
        self._signals = 0
        self._trackers = Trackers(
            folder, config.trackers, name=name, settings=dataclasses.asdict(config)
        )
        self._progress = Progress(name, unit="steps", total=config.steps)

    def follow(self, fit: Callable[[], Outcome]) -> Outcome:
        """Run `fit` to its end and show what happens meanwhile."""
        results: list[Outcome] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                results.append(fit())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True, name="fit")
        with _signals(self._on_signal), self._trackers, self._progress:
            thread.start()
            while thread.is_alive():
                thread.join(POLL_S)
                self._show()
            self._show()
        if failures:
            raise failures[0]
        outcome = results[0]
        if outcome.status == "failed" and self._records:
            outcome = dataclasses.replace(outcome, step=self._records[-1].step)
        self._report_speed(outcome)
        return outcome

    def _show(self) -> None:
        records: list[StepRecord] = ray.get(self._monitor.take.remote())
        for record in records:
            self._trackers.log(record)
            self._records.append(record)
            if len(self._records) == 2:  # the first one warms up
                self._warn_of_short_stops(record)
            rate = record.tokens / record.seconds
            if record.held_out:
                self._held_out = f" (held out {record.held_out['loss']:.4f})"
            told = [f"{name} {value:.4g}" for name, value in record.measured.items()]
            loss = ", ".join([f"loss {record.loss:.4f}{self._held_out}", *told])
            note = f"{loss}, {rate:,.0f} tokens/s, {record.memory_gib:.1f} GiB"
            self._progress.reach(record.step, note)
            if record.step % self._config.checkpoint_every == 0:
                self._publish()

    def _warn_of_short_stops(self, record: StepRecord) -> None:
        """`ray job stop` kills a driver that takes longer than it was told to wait."""
        wait = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", 3))
        if is_job() and record.seconds > wait / 2:
            logger.warning(
                "a step takes %.0f s, but `ray job stop` waits only %g s for it and its checkpoint "
                "before it kills; submit with RAY_JOB_STOP_WAIT_TIME_S of several steps in the "
                "env_vars of --runtime-env-json to stop without loss",
                record.seconds,
                wait,
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            raise SystemExit(128 + number)
        logger.warning(
            "%s: finishing the step and saving; a second signal ends the run immediately",
            signal.Signals(number).name,
        )
        if not ray.get(self._monitor.request_stop.remote()):
            raise SystemExit(128 + number)  # no worker has started, there is nothing to save

    def _report_speed(self, outcome: Outcome) -> None:
        """Tokens per second and MFU, from the second step on: the first one warms up."""
        settled = self._records[1:]
        if not settled:
            return
        workers = self._config.num_workers
        seconds = sum(record.seconds for record in settled)
        tokens = sum(record.tokens for record in settled) / seconds / workers
        logger.info(
            "%s: %.3f s a step, %.1f tokens/s for each of %d workers in rings of %d",
            self._name,
            seconds / len(settled),
            tokens,
            workers,
            self._config.ring_size,
        )
        if outcome.peak_flops:
            flops = sum(record.flops for record in settled) / seconds / workers
            logger.info(
                "%s: %.3g model FLOPs/s a worker, MFU %.1f%% of a measured matmul peak of %.3g",
                self._name,
                flops,
                100 * flops / outcome.peak_flops,
                outcome.peak_flops,
            )


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGTERM and SIGINT by `handler` meanwhile; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    previous = {kind: signal.signal(kind, handler) for kind in kinds}
    try:
        yield
    finally:
        for kind, old in previous.items():
            signal.signal(kind, old)
