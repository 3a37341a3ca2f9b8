"""What is checked before a worker starts, and how a failure is told."""

import dataclasses
import json
from pathlib import Path

import pyarrow.fs
import pytest
from ray.train import WorkerGroupError
from training_world import settings, write_base, write_shards

from longva_ray.train import checkpoints
from longva_ray.train.launch import check_continues, explain, probe_storage
from longva_ray.train.text_stage import TextStage


def test_storage_is_probed_and_left_clean(tmp_path: Path) -> None:
    probe_storage(str(tmp_path), "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        probe_storage(str(tmp_path / "file"), "run")


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    config = settings()
    stage = TextStage(config, base=base, shards=write_shards(tmp_path / "shards", base))
    progress = checkpoints.Progress(step=7, num_workers=2, zero_stage=0, identity=stage.identity())
    folder = tmp_path / "runs" / "step_0000007"
    folder.mkdir(parents=True)
    (folder / checkpoints.PROGRESS).write_text(json.dumps(dataclasses.asdict(progress)))
    (tmp_path / "runs" / "step_0000009").mkdir()  # an upload that was cut off
    local, runs = pyarrow.fs.LocalFileSystem(), str(tmp_path / "runs")
    check_continues(stage, config, local, runs)
    with pytest.raises(ValueError, match="num_workers was 2 and is 4"):
        check_continues(stage, settings(num_workers=4), local, runs)


def test_a_failure_is_told_by_rank() -> None:
    error = WorkerGroupError("long text", {1: RuntimeError("first line\nlost the connection")})
    told = explain(error)
    assert "rank 1: RuntimeError: lost the connection" in told
    assert "rank 0" not in told
