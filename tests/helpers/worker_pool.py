"""Gloo processes that live for a whole test session and run one job after another.

Starting a process takes seconds and the work of a test takes milliseconds, so four processes start
once and form groups of 1, 2 and 4 ranks (prefixes of the world; torch's own world is all of them).
A job is a top-level function of a test module. It is sent as a file and a name, because pytest
imports test modules under names that a fresh process cannot find. `job(group, *args)` runs on every
rank of the group, and its results come back in rank order.

A job that raises fails the test with the worker's traceback. One that hangs is killed after a
timeout. In both cases the next test gets new processes.
"""

import importlib.util
import inspect
import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

WORLD_SIZES = (1, 2, 4)

JOB_SECONDS = 300
"""A job that takes longer than this counts as hung. The first one waits for the processes to start
and import, which takes a minute on a busy machine."""


class WorkerPool:
    """Runs jobs on 1, 2 or 4 ranks, or on groups of other sizes. Processes start at the first job.

    `timeout_s` is how long the ranks wait for each other.
    """

    def __init__(self, sizes: tuple[int, ...] = WORLD_SIZES, *, timeout_s: float = 300) -> None:
        self._sizes = sizes
        self._timeout = timedelta(seconds=timeout_s)
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._connections: list[Connection] = []
        self._store: dist.TCPStore | None = None

    def run(self, job: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
        """The results of `job(group, *args)` from ranks 0..world_size-1."""
        if not self._processes:
            self._start()
        source = inspect.getsourcefile(job)
        message = pickle.dumps((source, job.__name__, world_size, args))
        connections = self._connections[:world_size]
        for connection in connections:
            connection.send_bytes(message)
        results: dict[int, Any] = {}
        deadline = time.monotonic() + JOB_SECONDS
        while len(results) < world_size:
            waiting = [c for rank, c in enumerate(connections) if rank not in results]
            ready = wait(waiting, timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                self.stop()
                missing = sorted(set(range(world_size)) - set(results))
                raise TimeoutError(f"{job.__name__} hung on ranks {missing} of {world_size}")
            for connection in ready:
                rank = connections.index(connection)
                try:
                    failure, results[rank] = pickle.loads(connection.recv_bytes())
                except EOFError:
                    failure = "the process died"
                if failure:
                    self.stop()
                    raise RuntimeError(f"{job.__name__} failed on rank {rank}:\n{failure}")
        return [results[rank] for rank in range(world_size)]

    def _start(self) -> None:
        # Port 0: the system picks a free one, and this process keeps it open from that moment on.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("spawn")
        for rank in range(max(self._sizes)):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(rank, self._sizes, self._timeout, self._store.port, theirs),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def stop(self) -> None:
        """End the processes, busy or not."""
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self._store = [], [], None


def _serve(
    rank: int, sizes: tuple[int, ...], timeout: timedelta, port: int, connection: Connection
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(max(sizes))}
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=max(sizes), timeout=timeout)
    groups = {size: dist.new_group(list(range(size))) for size in sizes}
    modules: dict[str, ModuleType] = {}
    while True:
        try:
            source, name, size, args = pickle.loads(connection.recv_bytes())
        except EOFError:  # the test session is over
            return
        try:
            if source not in modules:
                modules[source] = _load(source)
            answer = (None, getattr(modules[source], name)(groups[size], *args))
        except Exception:
            answer = (traceback.format_exc(), None)
        connection.send_bytes(pickle.dumps(answer))


def _load(source: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pool_job_{abs(hash(source))}", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
