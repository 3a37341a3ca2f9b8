"""One optimizer step over many processes: gradients, clipping, AdamW, and where states live.

    engine(batch) -> loss;  engine.backward(loss, last=...);  engine.step(lr) -> gradient norm

Two engines behind one face. `DeepSpeedEngine` divides optimizer states, gradients and weights over
the workers (ZeRO 1 to 3) and can keep them in host memory. `TorchEngine` is plain torch in float32:
every worker holds everything; for small models. (A step of 0.3M parameters and 4K tokens on one CPU
core: 345 ms of CPU time, with ZeRO-1 344, ZeRO-3 375, ZeRO-3 and offload 424.)

Both average gradients over all ranks, which is what a stage's loss counts on. Gradients of the
micro-batches of a step are added, never averaged: DeepSpeed's own division by the number of
micro-batches is off, since the loss is already divided by the labels of the whole step.

What it does not do: loss scaling (float16), other optimizers.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from longva_ray.train.settings import TrainConfig


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


def make_engine(
    module: torch.nn.Module,
    groups: list[dict[str, Any]],
    config: TrainConfig,
    device: torch.device,
) -> Engine:
    """The engine that `config.zero_stage` asks for."""
    if config.zero_stage == 0:
        return TorchEngine(module, groups, config, device)
    from longva_ray.train.zero import DeepSpeedEngine

    return DeepSpeedEngine(module, groups, config, device)


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


@dataclasses.dataclass
class TorchEngine:
    """Plain torch: weights and states on every rank, one all-reduce of all gradients a step."""

    module: torch.nn.Module
    groups: dataclasses.InitVar[list[dict[str, Any]]]
    config: TrainConfig
    device: torch.device

    def __post_init__(self, groups: list[dict[str, Any]]) -> None:
        self.module.to(self.device)
        if dist.is_initialized():
            for parameter in self.module.parameters():
                dist.broadcast(parameter.data, src=0)
        self._optimizer = adamw(groups, self.config)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]

    def __call__(self, **inputs: Any) -> torch.Tensor:
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        loss.backward()
        if last and dist.is_initialized() and dist.get_world_size() > 1:
            self._average_gradients()

    def _average_gradients(self) -> None:
        for parameter in self._parameters:
            if parameter.grad is None:  # unused on this rank, but perhaps not on others
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, share in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(share.view_as(gradient))

    def step(self, learning_rate: float) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm))
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def save(self, folder: Path) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            state = {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / "state.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        with own_settings(self._optimizer):
            self._optimizer.load_state_dict(state["optimizer"])

    def whole_weights(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        if dist.is_initialized() and dist.get_rank() != 0:
            return {}
        return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
