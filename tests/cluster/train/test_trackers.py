"""Numbers of a run, where they end up."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from longva_ray.train.records import StepRecord
from longva_ray.train.run.trackers import MOST_FAILURES, Trackers


def record(step: int, loss: float) -> StepRecord:
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
    )


def test_a_continued_run_adds_to_both_files(tmp_path: Path) -> None:
    for steps in ((1, 2), (2, 3)):
        with Trackers(tmp_path, ("tensorboard",), name="run", settings={}) as trackers:
            for step in steps:
                trackers.log(record(step, 0.5 * step))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3]
    assert lines[-1]["loss"] == 1.5
    assert lines[-1]["tokens_per_second"] == 5.0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {event.step for event in events.Scalars("train/loss")} == {1, 2, 3}


def test_a_missing_tracker_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match=r"longva-ray\[wandb\]"):
        Trackers(tmp_path, ("wandb",), name="run", settings={})


class Away:
    """A tracker whose server is away."""

    def __init__(self) -> None:
        self.asked = 0

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
