"""Where the numbers of a run go: metrics.jsonl always, TensorBoard and others by choice.

    with Trackers(folder, ("tensorboard",), name=..., settings=...) as trackers:
        trackers.log(record)

They live in the driver, so they outlast workers that are lost. A run that goes on from a checkpoint
does some steps again. What was recorded of them is dropped first, so that each step stands once:
W&B and MLflow cannot take back what they have, and keep that. Packages are imported when they are
asked for. Numbers are not worth a run: where they cannot be written, training goes on.

The trackers of accelerate and Ray are not used: they belong inside workers, and a class here is
about ten lines.
"""

import dataclasses
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from longva_ray.train.records import StepRecord

logger = logging.getLogger(__name__)


METRICS = "metrics.jsonl"


MOST_FAILURES = 5
"""Times in a row that a tracker may fail before it is left alone."""


class Tracker(Protocol):
    def rewind(self, step: int) -> None:
        """Forget this step and all after it, which are done again."""
        ...

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a step, flushed after each."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._file = self._path.open("a")

    def rewind(self, step: int) -> None:
        written = self._path.read_text()
        kept = [line for line in written.splitlines() if _step_of(line) < step]
        text = "".join(f"{line}\n" for line in kept)
        if text == written:
            return
        fresh = self._path.with_name(f"{METRICS}.new")
        fresh.write_text(text)
        fresh.replace(self._path)
        self._file.close()
        self._file = self._path.open("a")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that a kill cut off."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._open = partial(SummaryWriter, str(folder / "tensorboard"))
        self._writer = self._open()

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(purge_step=step)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Project from $WANDB_PROJECT; a run is continued under its name. W&B itself ignores a step
    that is before the last one it has."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(id=name, name=name, dir=str(folder), config=settings, resume="allow")

    def rewind(self, step: int) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Server and experiment from $MLFLOW_TRACKING_URI and $MLFLOW_EXPERIMENT_NAME; a run is
    continued under the id that is kept in its folder."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        file = folder / "mlflow_run_id"
        known = file.read_text() if file.exists() else None
        run = mlflow.start_run(run_id=known, run_name=name)
        file.write_text(run.info.run_id)
        mlflow.log_dict(settings, "settings.json")
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
        self._last = max((metric.step for metric in history), default=0)

    def rewind(self, step: int) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        if step > self._last:  # MLflow would keep both values of a step
            self._mlflow.log_metrics(values, step=step)
            self._last = step

    def close(self) -> None:
        self._mlflow.end_run()


def check_installed(kinds: Sequence[str]) -> None:
    """Raise ValueError for a tracker without its package, before anything waits for Ray."""
    for kind in kinds:
        if importlib.util.find_spec(kind) is None:  # each is called as its package
            raise _not_importable(kind, f"there is no package {kind}")


class Trackers:
    """All trackers of a run, as a context manager.

    Raises ValueError for one whose package is missing.
    """

    def __init__(
        self, folder: Path, kinds: Sequence[str], *, name: str, settings: dict[str, Any]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._failures: dict[Tracker, int] = {}
        self._last: int | None = None
        self._trackers: list[Tracker] = [JsonLines(folder)]
        for kind in kinds:
            self._trackers.append(_make(kind, folder, name, settings))

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for tracker in self._trackers:
            self._attempt(tracker, tracker.close)

    def log(self, record: StepRecord) -> None:
        values: dict[str, Any] = dataclasses.asdict(record)
        step = int(values.pop("step"))
        values |= values.pop("measured")
        del values["held_out"]
        values |= {f"held_out_{name}": value for name, value in record.held_out.items()}
        values["tokens_per_second"] = record.tokens / record.seconds
        if self._last is None or step <= self._last:
            self._rewind(step)
        self._last = step
        self._each(lambda tracker: tracker.log(step, values))

    def _rewind(self, step: int) -> None:
        """The first record of a driver may follow those of an earlier one."""
        if self._last is not None:
            logger.info("after a restart, steps %d to %d are done again", step, self._last)
        self._each(lambda tracker: tracker.rewind(step))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            if self._failures.get(tracker, 0) < MOST_FAILURES:
                self._attempt(tracker, partial(act, tracker))

    def _attempt(self, tracker: Tracker, act: Callable[[], None]) -> None:
        """A full disk or an unreachable server must not end the run."""
        try:
            act()
            self._failures[tracker] = 0
        except Exception as error:
            self._failures[tracker] = self._failures.get(tracker, 0) + 1
            gone = ", and is left alone from now on" * (self._failures[tracker] == MOST_FAILURES)
            logger.warning(
                "%s failed%s: %s: %s", type(tracker).__name__, gone, type(error).__name__, error
            )


def _make(kind: str, folder: Path, name: str, settings: dict[str, Any]) -> Tracker:
    try:
        if kind == "tensorboard":
            return TensorBoard(folder)
        if kind == "wandb":
            return WeightsAndBiases(folder, name, settings)
        return MLflow(folder, name, settings)
    except ImportError as error:
        raise _not_importable(kind, str(error)) from error
    except Exception as error:
        raise ValueError(
            f"tracker {kind!r} does not start ({type(error).__name__}: {error}); set it up, or "
            "leave it out of trackers"
        ) from error


def _not_importable(kind: str, why: str) -> ValueError:
    return ValueError(
        f"tracker {kind!r} cannot be imported ({why}); pip install 'longva-ray[{kind}]', or leave "
        "it out of trackers"
    )
