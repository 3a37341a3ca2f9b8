"""Trials spread over a cluster, each finished one kept: the Ray side of every evaluation.

    groups of trials -> gangs (one model each: a process, or a ring of them) -> outcomes -> ledger

Groups go to whichever gang is free, in their order, so that every gang meets prompts that share
beginnings. A gang that loses a process is built anew and its group tried again; an error inside the
test ends the sweep. Only the driver writes the ledger: kill it at any moment, and the next run does
what is missing.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from longva_ray.cluster.gang import Gang, GangSize, MakeWorker
from longva_ray.cluster.job import MISTAKES
from longva_ray.evaluate.ledger import Ledger, TrialOutcome
from longva_ray.progress import Progress
from longva_ray.settings.sweep import SweepConfig

logger = logging.getLogger(__name__)


ATTEMPTS = 3
"""Gangs that may be lost on one group, or while loading, before the sweep gives up."""


PATIENCE_S = 60.0
"""How long to wait for anything to happen before saying so."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Trials that one worker does one after the other, and how often they may still be tried."""

    trials: Sequence[Any]
    attempts: int = ATTEMPTS


def sweep(
    title: str,
    groups: Sequence[Sequence[Any]],
    key: Callable[[Any], str],
    make_worker: MakeWorker,
    arguments: Mapping[str, Any],
    *,
    config: SweepConfig,
    ledger: Ledger,
    recorded: Callable[[Mapping[str, TrialOutcome]], None] | None = None,
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
        recorded: is told the outcomes of each group when they are in the ledger.

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
    shared = ray.put(dict(arguments))
    gangs = [
        Gang(make_worker, shared, gang_size(config))
        for _ in range(min(num_gangs(config), len(pending)))
    ]
    try:
        done = 0
        with Progress(title, unit="trials", total=missing, uneven=True) as progress:
            for outcomes in _work(gangs, pending, config):
                ledger.record(outcomes)
                done += len(outcomes)
                progress.reach(done, "")  # the first ones waited for the model to load
                if recorded is not None:
                    recorded(outcomes)
    finally:
        for gang in gangs:
            gang.close()


def gang_size(config: SweepConfig) -> GangSize:
    """The processes of one model."""
    return GangSize(members=config.ring_size, cpus=config.worker_cpus, gpus=config.worker_gpus)


def num_gangs(config: SweepConfig) -> int:
    """Models that fit into the cluster as it is now, at most `max_workers`.

    Raises ValueError, with the sum, when not even one fits and `max_workers` does not say that an
    autoscaler will bring more."""
    resources = ray.cluster_resources()
    fits = gang_size(config).fits(resources)
    if config.max_workers is not None:
        return config.max_workers if fits == 0 else min(fits, config.max_workers)
    if fits == 0:
        raise ValueError(
            f"{config.ring_size} process(es) of {config.worker_cpus:g} CPU(s) and "
            f"{config.worker_gpus:g} GPU(s) do not fit into a cluster with "
            f"{resources.get('CPU', 0):g} CPU(s) and {resources.get('GPU', 0):g} GPU(s); lower "
            f"{_option(config, 'worker_cpus')}, {_option(config, 'worker_gpus')} or "
            f"{_option(config, 'ring_size')}, or set {_option(config, 'max_workers')} if an "
            "autoscaler will bring more"
        )
    return fits


def _work(
    gangs: Sequence[Gang], groups: Sequence[Sequence[Any]], config: SweepConfig
) -> Iterator[dict[str, TrialOutcome]]:
    """The outcomes of each group, as they come."""
    waiting = [_Group(trials=trials) for trials in reversed(groups)]
    loading = dict.fromkeys(gangs, ATTEMPTS)
    busy: dict[Gang, _Group] = {}
    idle: list[Gang] = []
    for gang in gangs:
        gang.open()
    while waiting or busy:
        while waiting and idle:
            gang, group = idle.pop(0), waiting.pop()
            gang.start(group.trials)
            busy[gang] = group
        found = _next_result(gangs, is_any_busy=bool(busy))
        if found is None:
            continue
        gang, reference = found
        try:
            outcomes = gang.take(reference)
        except RayActorError as error:
            lost = busy.pop(gang, None)
            left = (loading[gang] if lost is None else lost.attempts) - 1
            if not left:
                raise
            logger.warning("a worker was lost (%s); starting it again", type(error).__name__)
            if lost is None:
                loading[gang] = left
            else:
                waiting.append(dataclasses.replace(lost, attempts=left))
            gang.close()
            gang.open()
        except RayTaskError as error:
            mistake = _mistake(error, config)
            if mistake is None:
                raise
            raise mistake from error
        else:
            if gang.running:
                continue
            idle.append(gang)
            if busy.pop(gang, None):
                yield outcomes


def _next_result(gangs: Sequence[Gang], *, is_any_busy: bool) -> tuple[Gang, Any] | None:
    """The next member that is done, and its gang; None when nothing happened for long.

    Every rank is watched: one that fails would leave the others waiting for it. Gangs that the
    cluster has no room for yet are among them, and hold no group.
    """
    owner = {reference: gang for gang in gangs for reference in gang.running}
    finished, _ = ray.wait(list(owner), num_returns=1, timeout=PATIENCE_S)
    if finished:
        return owner[finished[0]], finished[0]
    if not is_any_busy:
        logger.warning("no worker is up yet: the cluster has no room, or models load")
    return None


def _mistake(error: RayTaskError, config: SweepConfig) -> Exception | None:
    """What a user can do about a failure inside the test, if anything."""
    if isinstance(error.cause, MISTAKES):
        return error.cause
    if isinstance(error.cause, torch.OutOfMemoryError):
        return ValueError(
            f"a worker's GPU is full ({error.cause}); lower {_option(config, 'prefill_chunk')}, "
            f"spread each prompt over more GPUs by {_option(config, 'ring_size')}, or leave out "
            "the longest ones"
        )
    return None


def _option(config: SweepConfig, name: str) -> str:
    """A setting as it is typed."""
    return f"--{config.stage}.{name.replace('_', '-')}"
