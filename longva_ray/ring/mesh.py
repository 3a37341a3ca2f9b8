"""Ranks -> data parallel x ring: which processes share a sequence, and which hold different ones.

    world of 8, ring of 4      rings 0 1 2 3 | 4 5 6 7

The ring is the fast-moving axis, so neighbours in a ring are consecutive ranks. Ray Train (and
torchrun) number ranks node by node, so a ring that fits on a node stays on it, and a longer one
crosses each node boundary once.

What it does not do: it starts no processes and chooses no devices.
"""

import dataclasses
from datetime import timedelta

import torch.distributed as dist


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingMesh:
    """This process's place, and its groups; all None without torch.distributed."""

    data_size: int
    """Rings that run side by side, each on different sequences."""
    data_rank: int
    """Which ring this process is in; feed rows `data_rank`, `data_rank + data_size`, ... to it."""
    ring_size: int
    ring_rank: int
    ring_group: dist.ProcessGroup | None
    """The ranks that share this process's sequences."""
    world_group: dist.ProcessGroup | None
    """All ranks: gradients are reduced and valid labels are counted over these."""


def make_mesh(
    *, ring_size: int, data_size: int | None = None, timeout: timedelta | None = None
) -> RingMesh:
    """Arrange the world as `data_size` rings of `ring_size`; None means as many as fit.

    Every process must call it, after `torch.distributed.init_process_group`. `timeout` limits the
    waits inside a ring; None is torch's default, whatever the limit of the world is. Raises
    ValueError, with the equation, when the sizes do not multiply to the size of the world.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if ring_size < 1 or (data_size is not None and data_size < 1):
        raise ValueError(
            f"sizes must be at least 1, got ring_size {ring_size}, data_size {data_size}"
        )
    rings = world_size // ring_size if data_size is None else data_size
    if rings * ring_size != world_size:
        raise ValueError(
            f"data_size x ring_size must be the world size: {rings} x {ring_size} = "
            f"{rings * ring_size}, but the world has {world_size} processes; change ring_size or "
            "the number of workers"
        )
    if not dist.is_initialized():
        return RingMesh(
            data_size=1,
            data_rank=0,
            ring_size=1,
            ring_rank=0,
            ring_group=None,
            world_group=None,
        )
    ring_group, _ = dist.new_subgroups(ring_size, timeout=timeout)
    data_rank, ring_rank = divmod(dist.get_rank(), ring_size)
    return RingMesh(
        data_size=rings,
        data_rank=data_rank,
        ring_size=ring_size,
        ring_rank=ring_rank,
        ring_group=ring_group,
        world_group=dist.group.WORLD,
    )
