"""Numbers of a run, where they end up."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from longva_ray.train.records import StepRecord
from longva_ray.train.run.trackers import METRICS, MOST_FAILURES, Trackers


def record(step: int, loss: float, held_out: dict[str, float] | None = None) -> StepRecord:
    return StepRecord(
        step=step,
        loss=loss,
        grad_norm=1.0,
        learning_rate=0.1,
        labels=9,
        tokens=10,
        flops=1.0,
        seconds=2.0,
        memory_gib=0.5,
        held_out=held_out or {},
    )


def test_each_step_stands_once(tmp_path: Path) -> None:
    """After a restart of the driver (its steps 3 and 4), and of workers under one driver; the last
    time counts, and of a step that is not done again, the only one."""
    for steps, attempt in (((1, 2, 3, 4, 5), 1), ((3, 4, 5, 4, 5, 6), 2)):
        with Trackers(tmp_path, ("tensorboard",), name="run", settings={}) as trackers:
            for step in steps:
                trackers.log(record(step, 10 * attempt + step))
        with (tmp_path / METRICS).open("a") as file:
            file.write('{"step": 6, "lo')  # what a kill cuts off
    with Trackers(tmp_path, ("tensorboard",), name="run", settings={}) as trackers:
        trackers.log(record(7, 37, {"loss": 38.0}))
    wanted = [(1, 11), (2, 12), (3, 23), (4, 24), (5, 25), (6, 26), (7, 37)]
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == wanted
    assert lines[-1]["tokens_per_second"] == 5.0
    assert lines[-1]["held_out_loss"] == 38.0
    assert lines[-2].keys() == lines[-1].keys() - {"held_out_loss"}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == wanted
    (event,) = events.Scalars("train/held_out_loss")
    assert (event.step, event.value) == (7, 38.0)


def test_mlflow_keeps_the_first_value_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[int] = []
    client = SimpleNamespace(
        get_metric_history=lambda run_id, name: [SimpleNamespace(step=step) for step in logged]
    )
    fake = SimpleNamespace(
        start_run=lambda **_: SimpleNamespace(info=SimpleNamespace(run_id="7")),
        log_dict=lambda *_: None,
        log_metrics=lambda values, step: logged.append(step),
        end_run=lambda: None,
        MlflowClient=lambda: client,
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for steps in ((1, 2, 3, 2, 3), (3, 4)):
        with Trackers(tmp_path, ("mlflow",), name="run", settings={}) as trackers:
            for step in steps:
                trackers.log(record(step, 0.5))
    assert logged == [1, 2, 3, 4]


def test_a_missing_tracker_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"longva-ray\[wandb\]"):
        Trackers(tmp_path, ("wandb",), name="run", settings={})


class Away:
    """A tracker whose server is away."""

    def __init__(self) -> None:
        self.asked = 0

    def rewind(self, step: int) -> None:
        pass

    def log(self, step: int, values: dict[str, float]) -> None:
        self.asked += 1
        raise ConnectionError("no route to host")

    def close(self) -> None:
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Away()
    with Trackers(tmp_path, (), name="run", settings={}) as trackers:
        trackers._trackers.insert(0, away)
        for step in range(1, 9):
            trackers.log(record(step, 0.5))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8
    assert away.asked == MOST_FAILURES
    assert "Away failed: ConnectionError: no route to host" in caplog.text
    assert "Away failed, and is left alone from now on" in caplog.text
