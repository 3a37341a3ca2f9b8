"""Trials spread over a cluster, each finished one kept: the Ray side of the needle tests.

    groups of trials -> lanes (one model each: a process, or a ring of them) -> outcomes -> ledger

A lane is `ring_size` actors in one placement group, which for a ring form a process group of their
own. Groups go to whichever lane is free, in their order, so that every lane meets prompts that
share beginnings. A lane that loses a process is built anew and its group tried again; an error
inside the test ends the sweep. Only the driver writes the ledger: kill it at any moment, and the
next run does what is missing.
"""

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from longva_ray.config import SweepConfig
from longva_ray.evaluate.ledger import Ledger, Outcome
from longva_ray.progress import Progress

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Lanes that may be lost on one group before the sweep gives up."""
PATIENCE_S = 60.0
"""How long to wait for anything to happen before saying so."""
LOSS_GRACE_S = 5.0
"""How long to wait for the news that the peer of a failed rank is dead."""
RING_TIMEOUT = timedelta(minutes=30)
"""Longest a rank waits for the others: longer than one prompt takes."""

Worker = Callable[[Sequence[Any]], Mapping[str, Outcome]]
MakeWorker = Callable[..., Worker]


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
        _Lane(make_worker, ray.put(dict(arguments)), config)
        for _ in range(min(num_lanes(config), len(pending)))
    ]
    try:
        with Progress(title, unit="trials", total=missing) as progress:
            _work(lanes, pending, ledger, progress)
    finally:
        for lane in lanes:
            lane.close()


def num_lanes(config: SweepConfig) -> int:
    """Lanes that fit into the cluster as it is now, at most `max_workers`.

    Raises ValueError, with the sum, when not even one fits and `max_workers` does not say that an
    autoscaler will bring more."""
    resources = ray.cluster_resources()
    wanted = {"CPU": config.worker_cpus, "GPU": config.worker_gpus}
    fits = min(
        int(resources.get(kind, 0.0) / (amount * config.ring_size) + 1e-9)
        for kind, amount in wanted.items()
        if amount
    )
    if config.max_workers is not None:
        return config.max_workers if fits == 0 else min(fits, config.max_workers)
    if fits == 0:
        raise ValueError(
            f"{config.ring_size} process(es) of {config.worker_cpus:g} CPU(s) and "
            f"{config.worker_gpus:g} GPU(s) do not fit into a cluster with "
            f"{resources.get('CPU', 0):g} CPU(s) and {resources.get('GPU', 0):g} GPU(s); lower "
            "worker_cpus, worker_gpus or ring_size, or set max_workers if an autoscaler will "
            "bring more"
        )
    return fits


def _work(
    lanes: Sequence["_Lane"],
    groups: Sequence[Sequence[Any]],
    ledger: Ledger,
    progress: Progress,
) -> None:
    waiting = [(group, ATTEMPTS) for group in reversed(groups)]
    busy: dict[_Lane, tuple[Sequence[Any], int]] = {}
    idle: list[_Lane] = []
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


class _Lane:
    """The processes of one model: one, or a ring."""

    def __init__(self, make_worker: MakeWorker, arguments: Any, config: SweepConfig) -> None:
        self._make_worker = make_worker
        self._arguments = arguments
        self._config = config
        self._place: PlacementGroup | None = None
        self._members: list[Any] = []
        self.running: list[Any] = []
        """References of the ranks that are still loading, or at work on a group."""
        self.attempts = ATTEMPTS
        """Losses while loading that are left, and one."""
        self._outcomes: dict[str, Outcome] = {}

    def start(self, group: Sequence[Any]) -> None:
        """Give a group of trials to every rank."""
        self.running = [member.run.remote(list(group)) for member in self._members]

    def finish(self, reference: Any) -> dict[str, Outcome]:
        """Take the result of one rank: the outcomes of a group, which all ranks have, or nothing
        after loading. Raises what Ray raises for it; a rank that fails because another one died
        counts as lost too."""
        try:
            self._outcomes = ray.get(reference)
        except RayTaskError:
            for other in self.running:
                ready, _ = ray.wait([other], timeout=LOSS_GRACE_S if other != reference else 0)
                if ready and other != reference:
                    ray.get(other)  # RayActorError if its process is gone
            raise
        self.running.remove(reference)
        return self._outcomes

    def close(self) -> None:
        """End the processes and give their resources back."""
        for member in self._members:
            ray.kill(member)
        self._members, self.running = [], []
        if self._place is not None:
            remove_placement_group(self._place)
            self._place = None

    def open(self) -> None:
        """Ask for the processes and let them load; the lane is up when none of them is running."""
        config = self._config
        bundle = {"CPU": config.worker_cpus, "GPU": config.worker_gpus}
        bundle = {kind: amount for kind, amount in bundle.items() if amount}
        self._place = placement_group([bundle] * config.ring_size, strategy="PACK")
        self._members = [
            ray.remote(_Member)
            .options(
                num_cpus=config.worker_cpus,
                num_gpus=config.worker_gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._place, placement_group_bundle_index=rank
                ),
            )
            .remote()
            for rank in range(config.ring_size)
        ]
        address = None
        if config.ring_size > 1:
            address = self._members[0].free_address.remote()
        self.running = [
            member.load.remote(self._make_worker, self._arguments, address, rank, config.ring_size)
            for rank, member in enumerate(self._members)
        ]


class _Member:
    """One process: a rank of a ring, or a lane of its own."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def free_address(self) -> str:
        """Where rank 0 will listen."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    def load(
        self,
        make_worker: MakeWorker,
        arguments: Mapping[str, Any],
        address: str | None,
        rank: int,
        ring_size: int,
    ) -> dict[str, Outcome]:
        """Make the worker; no outcomes yet."""
        if not torch.cuda.is_available():
            cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
            torch.set_num_threads(max(1, int(cpus)))
        group = None
        if address is not None:
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(
                backend,
                init_method=address,
                rank=rank,
                world_size=ring_size,
                timeout=RING_TIMEOUT,
            )
            group = dist.group.WORLD
        self._worker = make_worker(**arguments, group=group)
        return {}

    def run(self, trials: Sequence[Any]) -> dict[str, Outcome]:
        assert self._worker is not None
        return dict(self._worker(trials))
