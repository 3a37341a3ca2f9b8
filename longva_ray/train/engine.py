"""One optimizer step over many processes: gradients, clipping, AdamW, and where states live.

    engine(batch) -> loss;  engine.backward(loss, last=...);  engine.step(lr) -> gradient norm

Two engines, one protocol. `DeepSpeedEngine` divides optimizer states, gradients and weights over
the workers (ZeRO 1 to 3) and can keep them in host memory. `TorchEngine` is plain torch in float32:
every worker holds everything; for small models. (A step of 0.3M parameters and 4K tokens on one CPU
core: 345 ms of CPU time, with ZeRO-1 344, ZeRO-3 375, ZeRO-3 and offload 424.)

Both average gradients over all ranks, which is what a stage's loss counts on. Gradients of the
micro-batches of a step are added, never averaged: DeepSpeed's own division by the number of
micro-batches is off, since the loss is already divided by the labels of the whole step.

What it does not do: loss scaling (float16), other optimizers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from longva_ray.settings.training import TrainConfig


class Engine(Protocol):
    """A model under training, on this rank."""

    module: torch.nn.Module

    def __call__(self, **inputs: Any) -> torch.Tensor: ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of one micro-batch; `last` is the step's last one."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, update, forget the gradients; the norm before clipping, NaN if it is not finite."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's share of weights and optimizer states; every rank calls it."""
        ...

    def load(self, folder: Path) -> None: ...

    def whole_weights(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Weights of `model`, part of the module, on the CPU of rank 0; empty elsewhere. Every rank
        calls it."""
        ...


def adamw(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Every group's rate, by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


@contextmanager
def own_settings(optimizer: Any) -> Iterator[None]:
    """While states are loaded: rates, betas and decay stay what this run was started with, and do
    not become those of the checkpoint."""
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    yield
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
