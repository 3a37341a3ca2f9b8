"""Numbers of every rank -> their sums, the same on all ranks."""

from collections.abc import Sequence

import torch
import torch.distributed as dist


def sum_over_ranks(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """Sum of each value over the world, in float64 on the CPU; every rank calls it with as many
    values."""
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.cpu()
