"""A training checkpoint: every rank's share of the state, and what must not change to continue.

    folder/progress.json      steps done, and the identity of the run     (rank 0)
    folder/random_RANK.pt     states of the random number generators      (every rank)
    folder/...                what the engine writes                      (every rank)
    folder/share_RANK.json    sizes of all that this rank wrote           (every rank)

Every rank writes into its own folder; the folders are merged into one when they are persisted.
The position in the data is not among the contents: it is a function of the step (`train.order`).

What it does not do: move files, or change the number of workers. The shares of ZeRO belong to one
number of workers.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
import torch.distributed as dist

from longva_ray.settings.training import TrainConfig
from longva_ray.train.engine import Engine

PROGRESS = "progress.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """How far a run is and which run it is."""

    step: int
    num_workers: int
    zero_stage: int
    identity: dict[str, Any]
    settings: dict[str, Any]
    """All of them as JSON knows them; those outside `identity` may change."""

    @classmethod
    def parse(cls, text: str | bytes) -> "RunState":
        """Raises ValueError for what another version of this package wrote."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(
                f"the checkpoint was written by another version ({error}); give this run another "
                "name, or continue it with that version"
            ) from error


def save(
    engine: Engine, folder: Path, step: int, identity: dict[str, Any], config: TrainConfig
) -> None:
    """Write this rank's share after `step` steps; every rank calls it with its own folder."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    engine.save(folder)
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    torch.save(states, folder / f"random_{rank}.pt")
    if rank == 0:
        progress = RunState(
            step=step,
            num_workers=config.num_workers,
            zero_stage=config.zero_stage,
            identity=identity,
            settings=dataclasses.asdict(config),
        )
        (folder / PROGRESS).write_text(json.dumps(dataclasses.asdict(progress), indent=2) + "\n")
    written = [file for file in folder.rglob("*") if file.is_file()]
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in written}
    (folder / _share_name(rank)).write_text(json.dumps(sizes, indent=2) + "\n")


def restore(engine: Engine, folder: Path, identity: dict[str, Any], config: TrainConfig) -> int:
    """Bring engine and random numbers to the state of a checkpoint; returns its number of steps.

    Raises ValueError when the checkpoint belongs to another run.
    """
    progress = RunState.parse((folder / PROGRESS).read_text())
    check_same_run(progress, identity, config)
    engine.load(folder)
    rank = dist.get_rank() if dist.is_initialized() else 0
    states = torch.load(folder / f"random_{rank}.pt", weights_only=True)
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    return progress.step


def newest_complete(filesystem: pyarrow.fs.FileSystem, run: str) -> tuple[str, RunState] | None:
    """The last checkpoint in a run's folder that holds the whole share of every rank; uploads that
    were cut off are passed over."""
    inside = filesystem.get_file_info(pyarrow.fs.FileSelector(run, allow_not_found=True))
    for folder in sorted((info.path for info in inside), reverse=True):
        if Path(folder).name.startswith("step_") and (progress := _complete(filesystem, folder)):
            return folder, progress
    return None


def _complete(filesystem: pyarrow.fs.FileSystem, folder: str) -> RunState | None:
    """State of a complete checkpoint; None if anything is missing."""
    inside = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True))
    sizes = {info.path.removeprefix(f"{folder}/"): info.size for info in inside}
    try:
        progress = RunState.parse(_read(filesystem, f"{folder}/{PROGRESS}"))
        for rank in range(progress.num_workers):
            share = json.loads(_read(filesystem, f"{folder}/{_share_name(rank)}"))
            if any(sizes.get(name) != size for name, size in share.items()):
                return None
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return progress


def _read(filesystem: pyarrow.fs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_stream(path) as reader:
        content: bytes = reader.read()
    return content


def _share_name(rank: int) -> str:
    return f"share_{rank}.json"


def changed_settings(progress: RunState, config: TrainConfig) -> list[str]:
    """Settings that a continued run has changed, in words."""
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    return [
        f"{name} {progress.settings.get(name)!r} -> {value!r}"
        for name, value in now.items()
        if progress.settings.get(name) != value
    ]


def check_same_run(progress: RunState, identity: dict[str, Any], config: TrainConfig) -> None:
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
