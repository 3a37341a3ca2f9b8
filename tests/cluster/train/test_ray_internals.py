"""Ray Train still has what `train.run.ray_internals` reaches into."""

import logging
from typing import Any

import pytest
from ray.train import FailureConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.util import construct_user_exception_with_traceback

from longva_ray.train.run import ray_internals
from longva_ray.train.run.ray_internals import (
    INDEX_NAME,
    UNWANTED_CALLBACKS,
    EndAtMistakes,
    Trainer,
    raise_quietly,
)


def test_the_list_of_checkpoints_has_this_name() -> None:
    assert CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == INDEX_NAME


def test_callbacks_that_start_actors_are_left_out() -> None:
    def kinds(trainer: TorchTrainer) -> list[str]:
        return [type(each).__name__ for each in trainer._create_default_callbacks()]

    usual = kinds(TorchTrainer(print))
    assert set(usual) >= UNWANTED_CALLBACKS, "Ray has other callbacks now: what do they start?"
    assert kinds(Trainer(print)) == [kind for kind in usual if kind not in UNWANTED_CALLBACKS]


def test_a_mistake_ends_a_run_at_once_and_a_lost_worker_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    config: Any = FailureConfig(max_failures=1)
    policy = EndAtMistakes(config)
    lost, mistake = RuntimeError("lost the connection"), ValueError("no such attention")
    failed: Any = WorkerGroupError("a traceback", {0: lost, 1: mistake})
    assert policy.make_decision(failed) == FailureDecision.RAISE
    assert not caplog.text
    failed = WorkerGroupError("a traceback", {0: lost})
    assert policy.make_decision(failed) == FailureDecision.RETRY
    assert "a traceback" in caplog.text


def test_the_trainer_hands_that_policy_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        TorchTrainer, "_initialize_and_run_controller", lambda _, **settings: given.update(settings)
    )
    Trainer(print)._initialize_and_run_controller(failure_policy=None)
    assert isinstance(given["failure_policy"], EndAtMistakes)


def test_a_worker_can_raise_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    printer = logging.getLogger(ray_internals.TRACEBACK_LOGGER)
    construct_user_exception_with_traceback(ValueError("told"))
    assert "Error in training function" in caplog.text
    caplog.clear()
    level = printer.level
    raise_quietly()
    construct_user_exception_with_traceback(ValueError("not told"))
    printer.setLevel(level)
    assert not caplog.text
