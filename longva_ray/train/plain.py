"""Training in plain torch: one optimizer, gradients summed over the workers."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longva_ray.settings.training import TrainConfig
from longva_ray.train.engine import adamw, own_settings, set_learning_rate


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
