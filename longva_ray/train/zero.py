"""DeepSpeed's ZeRO engine, told exactly what to do (`train.engine` says what an engine is).

The process group already exists (Ray Train made it) and is reused. The learning rate is set by the
loop, so that a continued run needs no scheduler's memory. AdamW is DeepSpeed's CPU kernel where
states are offloaded from a GPU, and torch's everywhere else: the kernel is compiled at first use,
and on a machine without a GPU nothing is gained by it.

Weights are loaded whole on every rank and divided afterwards. `zero.Init` would save host memory
while loading, but it also changes what `torch.arange` returns, and with it the rotary embedding.

What it does not do: NVMe offload; changing the number of workers between checkpoints.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longva_ray.settings.training import TrainConfig
from longva_ray.train.deepspeed_internals import without_shared_memory
from longva_ray.train.engine import adamw, own_settings, set_learning_rate

TAG = "shards"


def deepspeed_settings(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """What `deepspeed.initialize` is told."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "contiguous_gradients": True}
    on_gpu = device.type == "cuda"
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
        if config.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


class DeepSpeedEngine:
    """ZeRO stage 1, 2 or 3.

    Raises ValueError when DeepSpeed is not installed.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        groups: list[dict[str, Any]],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        deepspeed = _import_deepspeed(device)
        self._deepspeed = deepspeed
        optimizer = _optimizer(deepspeed, groups, config, device)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=deepspeed_settings(config, device),
            dist_init_required=False,
        )
        self.module: torch.nn.Module = self._engine.module

    def __call__(self, **inputs: Any) -> torch.Tensor:
        loss: torch.Tensor = self._engine(**inputs)
        return loss

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        set_learning_rate(self._engine.optimizer, learning_rate)
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        # DeepSpeed says -1 where the norm is infinite or not a number.
        return norm if norm >= 0 else float("nan")

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG)

    def load(self, folder: Path) -> None:
        with own_settings(self._engine.optimizer):
            path, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        if path is None:
            raise ValueError(f"{folder} holds no checkpoint of these workers")

    def whole_weights(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        first = dist.get_rank() == 0
        whole: dict[str, torch.Tensor] = {}
        names = [(name, p) for name, p in model.named_parameters(remove_duplicate=False)]
        for name, parameter in names:
            with self._deepspeed.zero.GatheredParameters([parameter]):
                if first:
                    whole[name] = parameter.detach().cpu().clone()
        if first:
            # Buffers are not divided.
            saved = model.state_dict().keys()
            whole |= {name: b.cpu().clone() for name, b in model.named_buffers() if name in saved}
        return whole


def _optimizer(
    deepspeed: Any, groups: list[dict[str, Any]], config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    if not (config.offload and device.type == "cuda"):
        return adamw(groups, config)
    optimizer: torch.optim.Optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        adamw_mode=True,
    )
    return optimizer


def _import_deepspeed(device: torch.device) -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            f"zero_stage above 0 needs DeepSpeed, which cannot be imported ({error}); install "
            "deepspeed, or set zero_stage 0"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        without_shared_memory(deepspeed)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend())
    return deepspeed
