"""Trials spread over a cluster, each finished one kept: the Ray side of the needle tests.

    groups of trials -> lanes (one model each: a process, or a ring of them) -> outcomes -> ledger

A lane is `ring_size` actors in one placement group, which for a ring form a process group of their
own. Groups go to whichever lane is free, in their order, so that every lane meets prompts that
share beginnings. A lane that loses a process is built anew and its group tried again; an error
inside the test ends the sweep. Only the driver writes the ledger: kill it at any moment, and the
next run does what is missing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from longva_ray.cluster.gang import ATTEMPTS, Lane, MakeWorker, num_lanes
from longva_ray.evaluate.ledger import Ledger
from longva_ray.progress import Progress
from longva_ray.settings.needles import SweepConfig

logger = logging.getLogger(__name__)


PATIENCE_S = 60.0
"""How long to wait for anything to happen before saying so."""


def sweep(
    title: str,
    groups: Sequence[Sequence[Any]],
    key: Callable[[Any], str],
    make_worker: MakeWorker,
    arguments: Mapping[str, Any],
    *,
    config: SweepConfig,
    ledger: Ledger,
) -> None:
    """Run every trial that the ledger does not have yet, and record its outcome there.

    Args:
        title: what the progress display calls it.
        groups: trials that one worker should do one after the other.
        key: name of a trial in the ledger.
        make_worker: `make_worker(**arguments, group=...)` loads a model in each process and returns
            a function from trials to outcomes by key; over a ring, every rank calls it with the
            same trials.
        arguments: for `make_worker`; put into the object store once.

    Raises ValueError when the cluster is too small, or as the worker does.
    """
    pending = [[trial for trial in group if key(trial) not in ledger] for group in groups]
    pending = [group for group in pending if group]
    total = sum(map(len, groups))
    missing = sum(map(len, pending))
    if missing < total:
        logger.info("%s: %d of %d trials are in %s", title, total - missing, total, ledger.path)
    if not pending:
        return
    lanes = [
        Lane(make_worker, ray.put(dict(arguments)), config)
        for _ in range(min(num_lanes(config), len(pending)))
    ]
    try:
        with Progress(title, unit="trials", total=missing) as progress:
            _work(lanes, pending, ledger, progress)
    finally:
        for lane in lanes:
            lane.close()


def _work(
    lanes: Sequence["Lane"],
    groups: Sequence[Sequence[Any]],
    ledger: Ledger,
    progress: Progress,
) -> None:
    waiting = [(group, ATTEMPTS) for group in reversed(groups)]
    busy: dict[Lane, tuple[Sequence[Any], int]] = {}
    idle: list[Lane] = []
    for lane in lanes:
        lane.open()
    while waiting or busy:
        while waiting and idle:
            lane, (group, attempts) = idle.pop(0), waiting.pop()
            lane.start(group)
            busy[lane] = group, attempts
        # Every rank is watched: one that fails would leave the others waiting for it. Lanes that
        # the cluster has no room for yet are among them, and hold no group.
        owner = {reference: lane for lane in lanes for reference in lane.running}
        finished, _ = ray.wait(list(owner), num_returns=1, timeout=PATIENCE_S)
        if not finished:
            if not busy:
                logger.warning("no worker is up yet: the cluster has no room, or models load")
            continue
        lane = owner[finished[0]]
        try:
            outcomes = lane.finish(finished[0])
        except RayActorError as error:
            group, attempts = busy.pop(lane, ([], lane.attempts))
            if attempts == 1:
                raise
            logger.warning("a worker was lost (%s); starting it again", type(error).__name__)
            if group:
                waiting.append((group, attempts - 1))
            else:
                lane.attempts -= 1
            lane.close()
            lane.open()
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(str(error.cause)) from error
            if isinstance(error.cause, torch.OutOfMemoryError):
                raise ValueError(
                    f"a worker's GPU is full ({error.cause}); lower prefill_chunk, spread each "
                    "prompt over more GPUs by ring_size, or leave out the longest ones"
                ) from error
            raise
        else:
            if lane.running:
                continue
            if busy.pop(lane, None):
                ledger.record(outcomes)
                progress.advance(len(outcomes))
            idle.append(lane)
