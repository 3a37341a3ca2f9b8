"""Everything this package takes from inside Ray Train, in one place.

Ray has no public form of any. `tests/cluster/train/test_ray_internals.py` fails when a new version
of Ray moves them.
"""

import logging
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

from longva_ray.train.run.failure import mistake_in

INDEX_NAME = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, in the run's folder."""

UNWANTED_CALLBACKS = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
"""The first starts an actor that frees the workers' resources when it believes the controller is
dead. It asks whatever cluster it finds on the machine (Ray 2.60), so a second cluster there ends
healthy runs. Ray frees the resources of a dead driver anyway.

The second starts an actor that divides Ray Datasets over the workers. There are none here, and it
takes seconds to start."""


TRACEBACK_LOGGER = "ray.train.v2._internal.util"
"""What prints the traceback of whatever a worker raises."""


def raise_quietly() -> None:
    """In a worker: what it raises next is a user's mistake, whose traceback helps nobody."""
    logging.getLogger(TRACEBACK_LOGGER).setLevel(logging.CRITICAL)


class EndAtMistakes(DefaultFailurePolicy):
    """A user's mistake ends a run at once and without a word, since the driver tells it. Trying
    again would find it again."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        if mistake_in(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


class Trainer(TorchTrainer):
    """Without two of the callbacks that Ray Train adds by itself, and with another answer to a
    user's mistakes."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if type(each).__name__ not in UNWANTED_CALLBACKS]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        config: Any = self.run_config.failure_config
        settings["failure_policy"] = EndAtMistakes(config)
        return super()._initialize_and_run_controller(**settings)  # type: ignore[misc]
