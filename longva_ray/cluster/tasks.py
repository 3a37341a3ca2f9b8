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
from ray.data import TaskPoolStrategy

from longva_ray.cluster.graph import graph_of
from longva_ray.cluster.job import MISTAKES, connect


def run_tasks(
    worker: Callable[..., Any],
    tasks: list[tuple[Any, ...]],
    *,
    cpus: float,
    memory: int,
    most: int | None,
) -> Iterator[tuple[int, Any]]:
    """`worker(*task)` for every task; yields each task's number, which is its first entry, and its
    result, in the order in which they finish.

    Args:
        cpus, memory: what Ray reserves for one task.
        most: most tasks at a time; None, as many as fit.

    Raises ValueError when no task fits into the cluster; what a worker raises comes through.
    """
    if not tasks:
        return
    connect()
    have = ray.cluster_resources().get("CPU", 0.0)
    if 0 < have < cpus:
        raise ValueError(
            f"a task needs {cpus:g} CPUs, but the cluster has {have:g}; lower "
            "--text.task-cpus or --images.task-cpus, fractions are allowed"
        )
    rows = [{"number": task[0], "task": pickle.dumps(task)} for task in tasks]
    graph = graph_of(rows).map_batches(
        _Task(worker),
        batch_size=1,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=most),
        num_cpus=cpus,
        memory=memory,
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
