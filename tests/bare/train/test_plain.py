"""The engine of plain torch: what a continued run takes over, and what it does not."""

from pathlib import Path
from typing import Any

import torch
from training_world import settings

from longva_ray.train.plain import TorchEngine


def test_a_continued_run_keeps_its_own_settings(tmp_path: Path) -> None:
    def engine(**changes: Any) -> TorchEngine:
        module = torch.nn.Linear(2, 2)
        config = settings(**changes)
        groups = [{"params": list(module.parameters()), "lr_factor": changes["learning_rate"]}]
        return TorchEngine(module, groups, config, torch.device("cpu"))

    first = engine(learning_rate=0.5, weight_decay=0.1)
    first.backward(first.module(torch.ones(1, 2)).sum(), last=True)
    first.step(0.5)
    first.save(tmp_path)
    second = engine(learning_rate=0.25, weight_decay=0.0)
    second.load(tmp_path)
    optimizer = second._optimizer
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    assert optimizer.param_groups[0]["lr_factor"] == 0.25
    assert all(state["step"] == 1 for state in optimizer.state.values())
    assert torch.equal(first.module.weight, second.module.weight)
