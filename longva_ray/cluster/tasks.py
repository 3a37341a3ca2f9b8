"""Numbered tasks of a preparation, run somewhere in the cluster by Ray Data.

    worker, [(number, ...), ...] -> (number, result) as they finish

Ray decides where and when, never what. A task writes files that follow from its number. So one task
at a time or a hundred give the same bytes, and a number whose files exist need not run again.
A user's mistake that a task finds travels as its result and is raised by the caller. Raised inside,
Ray Data would take it for its own failure and print its traceback three times.
What it does not do: keep an order, or hand anything large through the object store.
"""

import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from longva_ray.cluster.graph import graph_of
from longva_ray.cluster.job import MISTAKES, connect


def run_tasks(
    worker: Callable[..., Any],
    tasks: list[tuple[Any, ...]],
    *,
    cpus: float,
    memory: int,
    most: int | None,
    gpus: float | None = None,
) -> Iterator[tuple[int, Any]]:
    """`worker(*task)` for every task; yields each task's number, which is its first entry, and its
    result, in the order in which they finish.

    Args:
        cpus, memory: what Ray reserves for one task.
        most: most tasks at a time; None, as many as fit.
        gpus: for workers that hold a model: what Ray reserves for each process too, 0 on CPUs.
            `worker()` is then called once in each process, and what it returns does the tasks.

    Raises ValueError when no task fits into the cluster; what a worker raises comes through.
    """
    if not tasks:
        return
    connect()
    have = ray.cluster_resources()
    cpus_there, gpus_there = have.get("CPU", 0.0), have.get("GPU", 0.0)
    if 0 < cpus_there < cpus:
        raise ValueError(
            f"a task needs {cpus:g} CPUs, but the cluster has {cpus_there:g}; lower the option "
            "that says so (--text.task-cpus, --images.task-cpus, --preferences.task-cpus), "
            "fractions are allowed"
        )
    if gpus_there < (gpus or 0) and most is None:
        raise ValueError(
            f"a task needs {gpus:g} GPUs, but the cluster has {gpus_there:g}; set "
            "--preferences.task-gpus and --encode.encoder-gpus to 0 to compute on CPUs, or "
            "--preferences.max-tasks and --encode.max-encoders if an autoscaler will bring GPUs"
        )
    rows = [{"number": task[0], "task": pickle.dumps(task)} for task in tasks]
    how: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    how |= {"num_cpus": cpus, "memory": memory}
    graph = graph_of(rows)
    if gpus is None:
        graph = graph.map_batches(_Task(worker), compute=TaskPoolStrategy(size=most), **how)
    else:
        fits = int(gpus_there / gpus if gpus else cpus_there / cpus)
        pool = ActorPoolStrategy(min_size=1, max_size=min(most or max(1, fits), len(tasks)))
        graph = graph.map_batches(
            _Holder, fn_constructor_args=(worker,), compute=pool, num_gpus=gpus, **how
        )
    for row in graph.iter_rows():
        result, mistake = pickle.loads(row["result"])
        if mistake is not None:
            raise mistake
        yield row["number"], result


class _Task:
    """Unpacks a task from its row and packs its result, or the mistake that it found: a row carries
    one opaque value."""

    def __init__(self, worker: Callable[..., Any]) -> None:
        self._worker = worker

    def __call__(self, row: pa.Table) -> pa.Table:
        task = pickle.loads(row.column("task")[0].as_py())
        result, mistake = None, None
        try:
            result = self._worker(*task)
        except MISTAKES as error:
            error.add_note(traceback.format_exc())  # for a log that shows tracebacks
            mistake = error
        packed = pickle.dumps((result, mistake))
        return pa.table({"number": row.column("number"), "result": [packed]})


class _Holder(_Task):
    """A task's process that first makes its worker."""

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        super().__init__(make())
