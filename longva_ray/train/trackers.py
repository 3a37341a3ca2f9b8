"""Where the numbers of a run go: metrics.jsonl always, TensorBoard and others by choice.

    with Trackers(folder, ("tensorboard",), name=..., settings=...) as trackers:
        trackers.log(record)

They live in the driver, not in a worker, so they outlast workers that are lost. Steps that are done
again after a restart are logged again; the last line of a step counts. Packages are imported when
they are asked for.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from longva_ray.train.loop import StepRecord

METRICS = "metrics.jsonl"


class Tracker(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a step, flushed at once."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / METRICS).open("a")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Project from $WANDB_PROJECT; a run is continued under its name."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(id=name, name=name, dir=str(folder), config=settings, resume="allow")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Server and experiment from $MLFLOW_TRACKING_URI and $MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.start_run(run_name=name)
        mlflow.log_dict(settings, "settings.json")

    def log(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Trackers:
    """All trackers of a run, as a context manager.

    Raises ValueError for one whose package is missing.
    """

    def __init__(
        self, folder: Path, kinds: Sequence[str], *, name: str, settings: dict[str, Any]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
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
            tracker.close()

    def log(self, record: StepRecord) -> None:
        values: dict[str, float] = dataclasses.asdict(record)
        step = int(values.pop("step"))
        values["tokens_per_second"] = record.tokens / record.seconds
        for tracker in self._trackers:
            tracker.log(step, values)


def _make(kind: str, folder: Path, name: str, settings: dict[str, Any]) -> Tracker:
    try:
        if kind == "tensorboard":
            return TensorBoard(folder)
        if kind == "wandb":
            return WeightsAndBiases(folder, name, settings)
        return MLflow(name, settings)
    except ImportError as error:
        raise ValueError(
            f"tracker {kind!r} cannot be imported ({error}); pip install 'longva-ray[{kind}]', or "
            "leave it out of trackers"
        ) from error
