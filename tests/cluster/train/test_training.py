"""Training on real Ray workers: a run that ends, and runs that survive losses.

That mesh, ZeRO and tiles change no loss is shown without Ray (`tests/bare/train/test_equality`).
"""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray.cloudpickle
import torch
import training_world
from local_link import train_locally
from ray.job_submission import JobStatus, JobSubmissionClient
from repository import PATIENCE_S, REPOSITORY
from safetensors.torch import load_file
from training_world import HangingStage, settings, write_base, write_shards
from transformers import AutoModelForCausalLM, AutoTokenizer

from longva_ray.settings.training import ExtendConfig
from longva_ray.train.records import Outcome
from longva_ray.train.run.launch import train
from longva_ray.train.run.ray_internals import INDEX_NAME
from longva_ray.train.run.trackers import METRICS
from longva_ray.train.stages.text import TextStage

OFFLOADED = {"steps": 8, "zero_stage": 3, "offload": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_shards(folder / "shards", write_base(folder / "base"))
    ray.cloudpickle.register_pickle_by_value(training_world)
    return folder


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


def run(world: Path, name: str, config: ExtendConfig, stage: type = TextStage) -> Outcome:
    return train(
        stage(config, base=str(world / "base"), shards=str(world / "shards")),
        config,
        storage=str(world / "runs"),
        name=name,
        documents={"recipe.json": {"seed": config.seed}},
    )


def losses(world: Path, name: str) -> dict[int, float]:
    """Loss of every step, each of which stands once."""
    lines = (world / "runs" / name / METRICS).read_text().splitlines()
    found = {record["step"]: record["loss"] for record in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def weights(world: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(world / "runs" / name / "final" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(world: Path, ray_cluster: str) -> dict[int, float]:
    """Eight steps on two workers as one ring, ZeRO-3 with everything offloaded."""
    outcome = run(world, "undisturbed", offloaded())
    assert outcome.status == "finished", outcome.message
    return losses(world, "undisturbed")


def test_two_workers_train_as_one_process_does(
    world: Path, undisturbed: dict[int, float], tmp_path: Path
) -> None:
    config = settings(steps=8, num_workers=1, ring_size=1)
    stage = TextStage(config, base=str(world / "base"), shards=str(world / "shards"))
    _, link = train_locally(stage, config, tmp_path)
    assert undisturbed == pytest.approx(link.losses, abs=1e-5)


def offloaded(**changes: object) -> ExtendConfig:
    return settings(**{**OFFLOADED, **changes})


def test_the_result_is_an_ordinary_checkpoint(world: Path, undisturbed: dict[int, float]) -> None:
    final = world / "runs" / "undisturbed" / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.config.rope_parameters["rope_theta"] == 1e5
    assert model.config.max_position_embeddings == 256
    assert AutoTokenizer.from_pretrained(final)("ab")["input_ids"] == [97, 98]
    assert json.loads((final / "recipe.json").read_text()) == {"seed": 2024}
    start = AutoModelForCausalLM.from_pretrained(world / "base")
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert undisturbed[8] < undisturbed[1]
    modes = {file.stat().st_mode for file in final.iterdir() if file.is_file()}
    assert len(modes) == 1, "some files can be read by fewer people than others"
    assert final.stat().st_mode == final.parent.stat().st_mode


def test_only_the_last_checkpoints_stay(world: Path, undisturbed: dict[int, float]) -> None:
    kept = sorted(path.name for path in (world / "runs" / "undisturbed").glob("step_*"))
    assert kept == ["step_0000006", "step_0000008"]


def test_a_hung_worker_is_reported(world: Path, ray_cluster: str) -> None:
    outcome = run(world, "hung", settings(collective_timeout_s=5), HangingStage)
    assert outcome.status == "failed"
    assert "rank 0 (ring 0, place 0 in it) waited more than 5 s" in outcome.message
    assert "step 2" in outcome.message


def test_ray_job_stop_saves_and_ends(world: Path, ray_cluster: str) -> None:
    """The real command on the real job; its supervisor sends SIGTERM and waits."""
    client = JobSubmissionClient(ray_cluster)
    options = {
        "shards": world / "shards",
        "model": world / "base",
        "storage": world / "runs",
        "name": "stopped",
        "extend.steps": 10**6,
        "extend.checkpoint-every": 10**6,
        "extend.max-tokens": 256,
        "extend.sequences-per-step": 4,
        "extend.rows-per-batch": 1,
        "extend.cpus-per-worker": 0.5,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    job = client.submit_job(
        entrypoint=shlex.join([sys.executable, "jobs/extend_text.py", *flags]),
        runtime_env={
            "working_dir": str(REPOSITORY),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "100"},
        },
    )
    when(lambda: 3 in losses(world, "stopped"), lambda: client.stop_job(job))
    over = {JobStatus.STOPPED, JobStatus.FAILED, JobStatus.SUCCEEDED}
    when(lambda: client.get_job_status(job) in over, lambda: None)
    logs = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.STOPPED, logs
    step = max(losses(world, "stopped"))
    assert f"stopped after step {step}" in logs
    assert "the same --name continues from the last checkpoint" in logs
    assert (world / "runs" / "stopped" / f"step_{step:07d}" / "progress.json").exists()
    assert not train_workers(), "workers outlive their driver"


def test_a_killed_worker_and_then_a_killed_driver_leave_no_trace(
    world: Path, undisturbed: dict[int, float]
) -> None:
    """Not even when Ray's own list of checkpoints, written in place, was cut short."""
    driver = start_driver(world, "killed", **OFFLOADED, max_failures=1)
    when(lambda: 3 in losses(world, "killed"), kill_a_worker)
    when(lambda: 5 in losses(world, "killed"), driver.kill)
    output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == -signal.SIGKILL, output
    assert "after a restart, steps 3 to" in output, "no worker was replaced"
    when(lambda: not train_workers(), lambda: None)
    assert not train_workers(), "workers outlive their driver"
    folder = world / "runs" / "killed"
    assert not (folder / "final").exists()
    (folder / INDEX_NAME).write_text("")
    written = (folder / METRICS).read_text().splitlines(keepends=True)[0]
    outcome = run(world, "killed", offloaded())
    assert outcome.status == "finished", outcome.message
    assert (folder / METRICS).read_text().startswith(written), "the run began anew"
    assert losses(world, "killed") == undisturbed
    expected = weights(world, "undisturbed")
    for name, tensor in weights(world, "killed").items():
        assert torch.equal(tensor, expected[name]), name
    again = run(world, "killed", offloaded())
    assert (again.status, again.already, again.step) == ("finished", True, 8)


def start_driver(world: Path, name: str, **changes: object) -> subprocess.Popen[str]:
    script = (
        "import logging, sys; logging.basicConfig(level=20);"
        "from training_driver import drive; drive(*sys.argv[1:])"
    )
    address = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        [sys.executable, "-c", script, str(world), address, name, json.dumps(changes)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def when(condition: Callable[[], bool], act: Callable[[], object]) -> None:
    """Act as soon as a condition holds; files that are not there yet make it false."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if condition():
                act()
                return
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    logging.getLogger(__name__).error("waited in vain")


def train_workers() -> list[psutil.Process]:
    """Training workers below this process, whose cluster it is."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in title(child)]


def title(process: psutil.Process) -> str:
    """What a process calls itself; nothing if it has ended since it was listed."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.NoSuchProcess:
        return ""


def kill_a_worker() -> None:
    train_workers()[-1].send_signal(signal.SIGKILL)
