"""What is checked before a worker starts, and how a failure is told."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import torch
from ray.train import WorkerGroupError
from training_world import settings, write_base, write_shards

from longva_ray.train import checkpoints, launch
from longva_ray.train.engine import TorchEngine
from longva_ray.train.launch import check_continues, explain, probe_storage
from longva_ray.train.text_stage import TextStage
from longva_ray.train.trackers import METRICS, JsonLines


def test_storage_is_probed_and_left_clean(tmp_path: Path) -> None:
    probe_storage(str(tmp_path), "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        probe_storage(str(tmp_path / "file"), "run")


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    config = settings(steps=8)
    stage = TextStage(config, base=base, shards=write_shards(tmp_path / "shards", base))
    progress = checkpoints.Progress(step=7, num_workers=2, zero_stage=0, identity=stage.identity())
    folder = tmp_path / "runs" / "step_0000007"
    folder.mkdir(parents=True)
    (folder / checkpoints.PROGRESS).write_text(json.dumps(dataclasses.asdict(progress)))
    (tmp_path / "runs" / "step_0000009").mkdir()  # an upload that was cut off
    local, runs = pyarrow.fs.LocalFileSystem(), str(tmp_path / "runs")
    check_continues(stage, config, local, runs)
    with pytest.raises(ValueError, match="num_workers was 2 and is 4"):
        check_continues(stage, settings(steps=8, num_workers=4), local, runs)
    with pytest.raises(ValueError, match="step 7 is beyond the 4 steps"):
        check_continues(stage, settings(steps=4), local, runs)


def test_a_failure_is_told_by_rank() -> None:
    traceback = """Traceback (most recent call last):
  File "loop.py", line 3, in run
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
    failures = {1: RuntimeError(traceback), 2: RuntimeError("lost the connection")}
    told = explain(WorkerGroupError("long text", failures))
    assert "rank 1: torch.AcceleratorError: CUDA error: an illegal memory access" in told
    assert "rank 2: lost the connection" in told
    assert "rank 0" not in told


def test_metrics_behind_a_uri_are_continued(tmp_path: Path) -> None:
    target, local = tmp_path / "run", pyarrow.fs.LocalFileSystem()
    target.mkdir()  # `probe_storage` makes it
    for step in (1, 2):
        with launch._tracker_folder(local, str(target), remote=True) as folder:
            metrics = JsonLines(folder)
            metrics.log(step, {"loss": 0.5})
            metrics.close()
    lines = (target / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


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
