"""Ray Train still has what `train.run.ray_internals` reaches into."""

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from longva_ray.train.run.ray_internals import INDEX_NAME, UNWANTED_CALLBACKS, Trainer


def test_the_list_of_checkpoints_has_this_name() -> None:
    assert CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == INDEX_NAME


def test_callbacks_that_start_actors_are_left_out() -> None:
    def kinds(trainer: TorchTrainer) -> list[str]:
        return [type(each).__name__ for each in trainer._create_default_callbacks()]

    usual = kinds(TorchTrainer(print))
    assert set(usual) >= UNWANTED_CALLBACKS, "Ray has other callbacks now: what do they start?"
    assert kinds(Trainer(print)) == [kind for kind in usual if kind not in UNWANTED_CALLBACKS]
