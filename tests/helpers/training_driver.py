"""A driver of a training run, to be started as a process that a test can kill."""

import json

import ray
import training_world
from training_world import SlowStage, settings

from longva_ray.train.run.launch import train


def drive(world: str, address: str, name: str, changes: str) -> None:
    """Train with slow steps on the cluster at `address`; `changes` are settings in JSON."""
    ray.init(address)
    ray.cloudpickle.register_pickle_by_value(training_world)
    config = settings(**json.loads(changes))
    outcome = train(
        SlowStage(config, base=f"{world}/base", shards=f"{world}/shards"),
        config,
        storage=f"{world}/runs",
        name=name,
        documents={},
    )
    raise SystemExit(f"{outcome.status} after step {outcome.step}")
