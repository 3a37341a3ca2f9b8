"""When the time left is shown, and from what it is computed."""

import logging

import pytest

from longva_ray import progress
from longva_ray.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[float]:
    """The time, to be set; every unit is logged."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", -1.0)
    caplog.set_level(logging.INFO)
    return now


def test_the_time_left_follows_from_the_rate(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("work", unit="units", total=100) as shown:
        clock[0] = 10
        shown.advance(1)
        assert caplog.messages[-1] == "work: 1 of 100 units, 10.0 s each, 0:16:30 left"


def test_uneven_work_has_no_time_left_at_first(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("sweep", unit="trials", total=100, uneven=True) as shown:
        clock[0] = 600  # a model was loaded
        shown.reach(2, "")
        assert caplog.messages[-1] == "sweep: 2 of 100 trials"
        clock[0] = 640
        shown.reach(3, "")
        assert caplog.messages[-1] == "sweep: 3 of 100 trials, 40.0 s each"
        clock[0] = 648
        shown.reach(10, "")
        assert caplog.messages[-1] == "sweep: 10 of 100 trials, 6.0 s each, 0:09:00 left"
