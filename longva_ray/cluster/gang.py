"""A ring of actors that share one model: their life, from asking for a place to losing a process.

    make_worker + arguments -> lanes -> work given to every rank, results taken from each

A lane is `ring_size` actors in one placement group, which for a ring form a process group of their
own.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from longva_ray.settings.needles import SweepConfig

ATTEMPTS = 3
"""Lanes that may be lost on one group before the sweep gives up."""


LOSS_GRACE_S = 5.0
"""How long to wait for the news that the peer of a failed rank is dead."""


RING_TIMEOUT = timedelta(minutes=30)
"""Longest a rank waits for the others: longer than one prompt takes."""


Result = dict[str, Any]
"""What a worker found out about one piece of work."""
Worker = Callable[[Sequence[Any]], Mapping[str, Result]]


MakeWorker = Callable[..., Worker]


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


class Lane:
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
        self._outcomes: dict[str, Result] = {}

    def start(self, group: Sequence[Any]) -> None:
        """Give a group of trials to every rank."""
        self.running = [member.run.remote(list(group)) for member in self._members]

    def finish(self, reference: Any) -> dict[str, Result]:
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
            ray.remote(Member)
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


class Member:
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
    ) -> dict[str, Result]:
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

    def run(self, trials: Sequence[Any]) -> dict[str, Result]:
        assert self._worker is not None
        return dict(self._worker(trials))
