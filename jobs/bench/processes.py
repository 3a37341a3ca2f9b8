"""Run a job on several gloo processes of one thread each, as a bench on one machine needs it."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def spawn(world_size: int, job: Callable[..., Any], *args: Any) -> Any:
    """What `job(*args)` returns on rank 0 of `world_size` gloo processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_process, args=(rank, world_size, folder, job, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        exit_codes = [process.exitcode for process in processes]
        if any(exit_codes):
            raise RuntimeError(f"{job.__name__} failed with exit codes {exit_codes}")
        return torch.load(Path(folder) / "result.pt", weights_only=False)


def _process(rank: int, world_size: int, folder: str, job: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    rendezvous = (Path(folder) / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    result = job(*args)
    if rank == 0:
        torch.save(result, Path(folder) / "result.pt")
    dist.barrier()
    dist.destroy_process_group()
