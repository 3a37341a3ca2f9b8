"""What is checked before a worker starts, and how a failure is told."""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pyarrow.fs
import pytest
import torch
from ray.train import WorkerGroupError
from training_world import settings, write_base, write_shards

from longva_ray.settings.training import ExtendConfig
from longva_ray.train import checkpoints
from longva_ray.train.plain import TorchEngine
from longva_ray.train.records import Outcome
from longva_ray.train.run import launch
from longva_ray.train.run.failure import explain
from longva_ray.train.run.launch import find_checkpoint
from longva_ray.train.run.storage import probe_storage, tracker_folder
from longva_ray.train.run.trackers import METRICS, JsonLines
from longva_ray.train.stages.text import TextStage


def test_storage_is_probed_and_left_clean(tmp_path: Path) -> None:
    probe_storage(str(tmp_path), "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        probe_storage(str(tmp_path / "file"), "run")


LOCAL = pyarrow.fs.LocalFileSystem()


@pytest.fixture
def stage(tmp_path: Path) -> TextStage:
    base = write_base(tmp_path / "base")
    return TextStage(settings(), base=base, shards=write_shards(tmp_path / "shards", base))


def write_checkpoint(stage: TextStage, config: ExtendConfig, runs: Path, step: int) -> Path:
    """A checkpoint of two workers; the second worker's share is a separate file."""
    module = torch.nn.Linear(2, 2)
    groups = [{"params": list(module.parameters()), "lr_factor": 1.0}]
    engine = TorchEngine(module, groups, config, torch.device("cpu"))
    folder = runs / f"step_{step:07d}"
    folder.mkdir(parents=True)
    checkpoints.save(engine, folder, step, stage.identity(), config)
    (folder / "weights").write_bytes(b"12345")
    (folder / "share_1.json").write_text('{"weights": 5}')
    return folder


def test_a_checkpoint_of_another_run_is_refused(stage: TextStage, tmp_path: Path) -> None:
    config = settings(steps=8)
    folder = write_checkpoint(stage, config, tmp_path / "runs", 7)
    runs = str(tmp_path / "runs")
    assert find_checkpoint(stage, config, LOCAL, runs) == (str(folder), 7)
    with pytest.raises(ValueError, match="num_workers was 2 and is 4"):
        find_checkpoint(stage, settings(steps=8, num_workers=4), LOCAL, runs)
    with pytest.raises(ValueError, match="step 7 is beyond the 4 steps"):
        find_checkpoint(stage, settings(steps=4), LOCAL, runs)


def test_a_run_goes_on_from_the_last_complete_checkpoint(stage: TextStage, tmp_path: Path) -> None:
    config, runs = settings(steps=8), tmp_path / "runs"
    assert find_checkpoint(stage, config, LOCAL, str(runs)) is None
    whole, cut, begun = (write_checkpoint(stage, config, runs, step) for step in (2, 4, 6))
    (cut / "weights").write_bytes(b"123")
    (begun / "share_1.json").unlink()
    assert find_checkpoint(stage, config, LOCAL, str(runs)) == (str(whole), 2)
    (begun / "share_1.json").write_text('{"wei')
    assert find_checkpoint(stage, config, LOCAL, str(runs)) == (str(whole), 2)
    (cut / "weights").write_bytes(b"12345")
    assert find_checkpoint(stage, config, LOCAL, str(runs)) == (str(cut), 4)


def test_a_finished_run_says_so_and_starts_nothing(
    stage: TextStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the result is not there: it may have been stopped while it wrote that."""

    def resubmit() -> Outcome:
        return launch.train(
            stage, settings(steps=8), storage=str(tmp_path), name="runs", documents={}
        )

    started = RuntimeError("Ray was started")
    monkeypatch.setattr(launch, "connect", Mock(side_effect=started))
    write_checkpoint(stage, settings(steps=8), tmp_path / "runs", 8)
    with pytest.raises(RuntimeError, match="Ray was started"):
        resubmit()
    (tmp_path / "runs" / "final").mkdir()
    outcome = resubmit()
    assert outcome.status == "finished"
    told = outcome.describe("/runs")
    assert told == "already finished: all 8 steps were done before; the model is in /runs/final"


def test_a_checkpoint_of_another_version_is_not_begun_anew(
    stage: TextStage, tmp_path: Path
) -> None:
    folder = write_checkpoint(stage, settings(), tmp_path / "runs", 2)
    (folder / checkpoints.PROGRESS).write_text('{"step": 2}')
    with pytest.raises(ValueError, match="written by another version"):
        find_checkpoint(stage, settings(), LOCAL, str(tmp_path / "runs"))


def test_other_settings_of_a_run_that_goes_on_are_said(
    stage: TextStage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    write_checkpoint(stage, settings(steps=8), runs, 2)
    find_checkpoint(stage, settings(steps=8), LOCAL, str(runs))
    assert not caplog.text
    find_checkpoint(stage, settings(steps=8, learning_rate=0.5), LOCAL, str(runs))
    assert "going on from step 2 with another setting: learning_rate 0.01 -> 0.5" in caplog.text


def test_a_failure_is_told_by_rank() -> None:
    traceback = """Traceback (most recent call last):
  File "loop.py", line 3, in run
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
    failures = {1: RuntimeError(traceback), 2: RuntimeError("lost the connection")}
    doing = {0: "computes step 3", 1: "computes step 3", 2: "reads the rows of step 3"}
    told = explain(WorkerGroupError("long text", failures), doing)
    assert "rank 1: torch.AcceleratorError: CUDA error: an illegal memory access" in told
    assert "rank 2: lost the connection" in told
    assert "rank 0: " not in told
    assert "last known: rank 0 computes step 3, rank 1" in told


def test_metrics_at_a_uri_are_continued(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()  # `probe_storage` makes it
    for step in (1, 2):
        with tracker_folder(LOCAL, str(target), remote=True) as (folder, publish):
            metrics = JsonLines(folder)
            metrics.log(step, {"loss": 0.5})
            publish()
            assert f'"step": {step},' in (target / METRICS).read_text()
            metrics.close()
    lines = (target / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


@pytest.mark.parametrize("kept", [None, "/runs/run/step_0000003"])
def test_a_run_that_diverges_names_the_last_good_checkpoint(
    kept: str | None,
) -> None:
    outcome = Outcome(status="diverged", step=3, message="step 4: loss nan")
    checkpoint = kept and SimpleNamespace(path=kept)
    result = SimpleNamespace(return_value=outcome, checkpoint=checkpoint)
    told = launch._fit(SimpleNamespace(fit=lambda: result), monitor=None)
    assert (told.status, told.step) == ("diverged", 3)
    assert told.message == (f"step 4: loss nan; last good checkpoint: {kept or 'none was written'}")


def test_a_mistake_that_a_worker_finds_is_raised() -> None:
    mistake = ValueError("the folder lacks 1 weight(s)")

    def fit() -> None:
        raise WorkerGroupError("long text", {0: RuntimeError("lost"), 1: mistake})

    with pytest.raises(ValueError, match="lacks 1 weight") as raised:
        launch._fit(SimpleNamespace(fit=fit), monitor=None)
    assert raised.value is mistake
