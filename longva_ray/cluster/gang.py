"""A gang: actors that work as one, such as a ring of processes that share a model.

    make_worker, arguments -> Gang: opened, work given to every member, a result taken from each

The members of a gang share one placement group, so all of them run or none does, and more than one
form a `torch.distributed` process group. A member that is lost takes the gang with it: close it and
open it again. What the work is, a gang does not know; nothing here is tried again or kept.
"""

import dataclasses
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

LOSS_GRACE_S = 5.0
"""How long to wait for the news that the peer of a failed member is dead."""


GROUP_TIMEOUT = timedelta(minutes=30)
"""Longest a member waits for the others: longer than one piece of work takes."""


Worker = Callable[[Sequence[Any]], Any]
"""Work -> its result, in one process."""


MakeWorker = Callable[..., Worker]
"""Called in every member with the gang's arguments and `group`, its process group or None."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GangSize:
    """How many processes a gang has, and what Ray reserves for each."""

    members: int
    cpus: float
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one member, as Ray wants them."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus}
        return {kind: amount for kind, amount in amounts.items() if amount}

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many such gangs these resources hold."""
        return min(
            int(resources.get(kind, 0.0) / (amount * self.members) + 1e-9)
            for kind, amount in self.bundle.items()
        )


class Gang:
    """The processes that share one model: one, or a ring."""

    def __init__(self, make_worker: MakeWorker, arguments: Any, size: GangSize) -> None:
        """`arguments` is a mapping of keyword arguments in the object store."""
        self._make_worker = make_worker
        self._arguments = arguments
        self._size = size
        self._place: PlacementGroup | None = None
        self._members: list[Any] = []
        self.running: list[Any] = []
        """References of the members that still load, or are at work."""

    def open(self) -> None:
        """Ask for the processes and let them load; the gang is up when none of them is running."""
        size = self._size
        self._place = placement_group([size.bundle] * size.members, strategy="PACK")
        self._members = [
            ray.remote(Member)
            .options(
                num_cpus=size.cpus,
                num_gpus=size.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._place, placement_group_bundle_index=rank
                ),
            )
            .remote()
            for rank in range(size.members)
        ]
        address = self._members[0].free_address.remote() if size.members > 1 else None
        self.running = [
            member.load.remote(self._make_worker, self._arguments, address, rank, size.members)
            for rank, member in enumerate(self._members)
        ]

    def start(self, work: Sequence[Any]) -> None:
        """Give the same work to every member."""
        self.running = [member.run.remote(list(work)) for member in self._members]

    def take(self, reference: Any) -> Any:
        """The result of one member: of its work, which all members have, or None after loading.

        Raises what Ray raises for it; a member that fails because another one died counts as lost,
        too.
        """
        try:
            result = ray.get(reference)
        except RayTaskError:
            for other in self.running:
                ready, _ = ray.wait([other], timeout=LOSS_GRACE_S if other != reference else 0)
                if ready and other != reference:
                    ray.get(other)  # RayActorError if its process is gone
            raise
        self.running.remove(reference)
        return result

    def close(self) -> None:
        """End the processes and give their resources back."""
        for member in self._members:
            ray.kill(member)
        self._members, self.running = [], []
        if self._place is not None:
            remove_placement_group(self._place)
            self._place = None


class Member:
    """One process of a gang."""

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
        world_size: int,
    ) -> None:
        """Make the worker, in a process group where there is an address."""
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
                world_size=world_size,
                timeout=GROUP_TIMEOUT,
            )
            group = dist.group.WORLD
        self._worker = make_worker(**arguments, group=group)

    def run(self, work: Sequence[Any]) -> Any:
        assert self._worker is not None
        return self._worker(work)
