"""What runs in every Ray Train worker: device, mesh and session, then the loop."""

import contextlib
import logging
from datetime import timedelta
from typing import Any

import ray.train.torch
import torch
import torch.distributed as dist

from longva_ray.ring.mesh import RingMesh, make_mesh
from longva_ray.settings.training import TrainConfig
from longva_ray.train import loop
from longva_ray.train.run.link import RaySession


def work(settings: dict[str, Any]) -> Any:
    """Train as one worker of the group, as `launch.train` says; returns an Outcome."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    config: TrainConfig = settings["config"]
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    mesh = make_mesh(ring_size=config.ring_size, device_type=device.type)
    _limit_waits(mesh, config.collective_timeout_s)
    session = RaySession(
        settings["monitor"],
        checkpoint=settings["checkpoint"],
        final=settings["final"],
        documents=settings["documents"],
    )
    return loop.run(settings["stage"], config, mesh, device, session)


def _limit_waits(mesh: RingMesh, timeout_s: int) -> None:
    """Give the ring the world's time limit: new groups start with torch's own."""
    if mesh.ring_group is not None:
        # Not every backend lets its limit be changed; the world's own still ends the wait.
        with contextlib.suppress(RuntimeError):
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), mesh.ring_group)
