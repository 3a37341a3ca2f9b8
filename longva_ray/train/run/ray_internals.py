"""Everything this package takes from inside Ray Train, in one place.

Ray has no public form of either. `tests/cluster/train/test_ray_internals.py` fails when a new
version of Ray moves them.
"""

from typing import Any

from ray.train.torch import TorchTrainer

INDEX_NAME = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a run's checkpoints, in the run's folder."""

UNWANTED_CALLBACKS = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
"""The first starts an actor that frees the workers' resources when it believes the controller is
dead. It asks whatever cluster it finds on the machine (Ray 2.60), so a second cluster there ends
healthy runs. Ray frees the resources of a dead driver anyway.

The second starts an actor that divides Ray Datasets over the workers. There are none here, and it
takes seconds to start."""


class Trainer(TorchTrainer):
    """Without two of the callbacks that Ray Train adds by itself."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if type(each).__name__ not in UNWANTED_CALLBACKS]
