"""A training checkpoint: every rank's share of the state, and what must not change to continue.

    folder/progress.json      steps done, and the identity of the run     (rank 0)
    folder/random_RANK.pt     states of the random number generators      (every rank)
    folder/...                what the engine writes                      (every rank)

Every rank writes into a folder of its own; the folders are merged into one when they are persisted.
The position in the data is not among the contents: it is a function of the step (`train.order`).

What it does not do: move files, or change the number of workers. The shares of ZeRO belong to one
number of workers.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longva_ray.train.engine import Engine
from longva_ray.train.settings import TrainConfig

PROGRESS = "progress.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is and which run it is."""

    step: int
    num_workers: int
    zero_stage: int
    identity: dict[str, Any]

    @classmethod
    def parse(cls, text: str | bytes) -> "Progress":
        return cls(**json.loads(text))


def save(
    engine: Engine, folder: Path, step: int, identity: dict[str, Any], config: TrainConfig
) -> None:
    """Write this rank's share after `step` steps; every rank calls it with a folder of its own."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    engine.save(folder)
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    torch.save(states, folder / f"random_{rank}.pt")
    if rank == 0:
        progress = Progress(
            step=step,
            num_workers=config.num_workers,
            zero_stage=config.zero_stage,
            identity=identity,
        )
        (folder / PROGRESS).write_text(json.dumps(dataclasses.asdict(progress), indent=2) + "\n")


def restore(engine: Engine, folder: Path, identity: dict[str, Any], config: TrainConfig) -> int:
    """Bring engine and random numbers to the state of a checkpoint; the steps that were done.

    Raises ValueError when the checkpoint belongs to another run.
    """
    progress = Progress.parse((folder / PROGRESS).read_text())
    check_same_run(progress, identity, config)
    engine.load(folder)
    rank = dist.get_rank() if dist.is_initialized() else 0
    states = torch.load(folder / f"random_{rank}.pt", weights_only=True)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    return progress.step


def check_same_run(progress: Progress, identity: dict[str, Any], config: TrainConfig) -> None:
    """Raise ValueError, naming what differs, unless a checkpoint belongs to this run."""
    then = {
        "num_workers": progress.num_workers,
        "zero_stage": progress.zero_stage,
        **progress.identity,
    }
    now = {"num_workers": config.num_workers, "zero_stage": config.zero_stage, **identity}
    changed = [
        f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"the checkpoint of step {progress.step} belongs to another run: {'; '.join(changed)}; "
            "give this run another name, or the settings of the old one"
        )
    if progress.step > config.steps:
        raise ValueError(
            f"the checkpoint of step {progress.step} is beyond the {config.steps} steps asked for; "
            "ask for more steps, or give this run another name"
        )
