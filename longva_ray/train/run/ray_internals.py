"""Everything this package takes from inside Ray Train, in one place.

Ray has no public form of either. `tests/cluster/train/test_ray_internals.py` fails when a new
version of Ray moves them.
"""

from typing import Any

from ray.train.torch import TorchTrainer

INDEX_NAME = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, in the run's folder."""

UNWANTED_CALLBACK = "PlacementGroupCleanerCallback"


class Trainer(TorchTrainer):
    """Without the actor that frees the workers' resources when it believes the controller is dead.

    That actor asks whatever cluster it finds on the machine (Ray 2.60), so a second cluster there
    ends healthy runs. Ray frees the resources of a dead driver anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if type(each).__name__ != UNWANTED_CALLBACK]
