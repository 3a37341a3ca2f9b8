"""What preparing texts, images and preferences has in common: settings and tasks.

    tasks by number, results of an earlier run -> the others run in the cluster -> all results

What it does not do: know what a task reads or writes.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from longva_ray.cluster.tasks import run_tasks
from longva_ray.data.images.chat import RawSample
from longva_ray.data.sample_parts import PartResult, RecordT, Writer, read_result
from longva_ray.files.folder import Folder
from longva_ray.files.parts import Kind
from longva_ray.progress import Progress

logger = logging.getLogger(__name__)

TASK_MEMORY = 2**30
"""Bytes that Ray reserves for a task: its process, and a batch of texts, a part of tokens, or a row
of pixels twice."""

ResultT = TypeVar("ResultT")


class TaskSettings(Protocol):
    """What settings of a preparation say about its tasks."""

    @property
    def task_cpus(self) -> float: ...
    @property
    def max_tasks(self) -> int | None: ...


def deciding_settings(
    config: Any, without: Collection[str], added: Collection[str] = ()
) -> dict[str, Any]:
    """The settings that decide what is written: all but those that only say how, and `held_out`
    only where something is.

    Args:
        added: settings that came later. They are left out where they are as they were before, so
            that shards from then are still those of the same run.
    """
    settings = {name: v for name, v in dataclasses.asdict(config).items() if name not in without}
    if settings["held_out"] is not None:
        settings["held_out"] = float(settings["held_out"])  # 4 and 4.0 are the same run
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in ("held_out", *added):
        if settings[name] == defaults[name]:
            del settings[name]
    return settings


def check_same(
    kind: Kind[Any], place: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Raises the kind's error if shards that are there were made with other settings or inputs."""
    names = found.keys() | wanted.keys()
    different = sorted(name for name in names if found.get(name) != wanted.get(name))
    if different:
        raise kind.error(
            f"{place} holds {kind.title} made with another {', '.join(different)}; choose another "
            "output folder, or delete this one"
        )


def run_missing(
    worker: Callable[..., ResultT],
    tasks: Sequence[tuple[Any, ...]],
    done: Mapping[int, ResultT],
    *,
    settings: TaskSettings,
    title: str,
    unit: str,
    size: Callable[[ResultT], int],
    total: int | None = None,
    gpus: float | None = None,
) -> list[ResultT]:
    """The result of every task, in their order.

    Args:
        worker: called with the number of a task and what the task holds, in some process.
        gpus: for workers that hold a model, as `cluster.tasks.run_tasks` has it.
        done: results of an earlier run, by number; these tasks do not run again.
        size: how many units of progress a result stands for.
        total: units of all tasks, if known.
    """
    missing = [(number, *task) for number, task in enumerate(tasks) if number not in done]
    logger.info("%s: %d tasks, %d were finished before", title, len(tasks), len(done))
    results = dict(done)
    with Progress(title, unit=unit, total=total) as progress:
        progress.reach(sum(map(size, done.values())), "")
        for number, result in run_tasks(
            worker,
            missing,
            cpus=settings.task_cpus,
            memory=TASK_MEMORY,
            most=settings.max_tasks,
            gpus=gpus,
        ):
            results[number] = result
            progress.advance(size(result))
    return [results[number] for number in range(len(tasks))]


def encode_slices(
    worker: Callable[..., Any],
    slices: Sequence[Sequence[RawSample]],
    *,
    output: Folder,
    key: str,
    writer: Writer[Any, RecordT],
    record: type[RecordT],
    settings: TaskSettings,
    gpus: float | None = None,
) -> list[PartResult[RecordT]]:
    """What became of the samples of every slice, each of which is a part: those that an earlier run
    under this key has not finished are encoded now.

    Args:
        worker: an `EncodePart`, or with `gpus` a function that makes one.
        record: what `writer` says of a part.
    """
    found = {part: read_result(output, part, key, writer, record) for part in range(len(slices))}
    return run_missing(
        worker,
        [(samples,) for samples in slices],
        {part: result for part, result in found.items() if result is not None},
        settings=settings,
        title="encoding",
        unit="samples",
        size=lambda result: result.num_samples,
        total=sum(map(len, slices)),
        gpus=gpus,
    )
