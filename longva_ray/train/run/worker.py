"""What runs in every Ray Train worker: device, mesh and link, then the loop.

Ray's controller imports this file too, only to hand `work` on. So everything heavy is imported
inside `work`, and the stage and its settings travel by reference.
"""

from typing import Any


def work(sent: dict[str, Any]) -> Any:
    """Train as one worker of the group, as `launch.train` says; returns an Outcome."""
    import logging
    import traceback
    from datetime import timedelta

    import ray.train.torch
    import torch

    from longva_ray.cluster.job import MISTAKES
    from longva_ray.ring.mesh import make_mesh
    from longva_ray.settings.training import TrainConfig
    from longva_ray.train import loop
    from longva_ray.train.run.link import RayLink
    from longva_ray.train.run.ray_internals import raise_quietly

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings: dict[str, Any] = ray.get(sent["settings"])
    config: TrainConfig = settings["config"]
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    timeout = timedelta(seconds=config.collective_timeout_s)
    mesh = make_mesh(ring_size=config.ring_size, timeout=timeout)
    link = RayLink(
        settings["monitor"],
        checkpoint=settings["checkpoint"],
        final=settings["final"],
        documents=settings["documents"],
    )
    try:
        return loop.run(settings["stage"], config, mesh, device, link)
    except MISTAKES as error:
        error.add_note(traceback.format_exc())  # for a log that shows tracebacks
        raise_quietly()
        raise
