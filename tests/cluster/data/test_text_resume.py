"""A text preparation that is killed goes on where it stopped."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import ray
from repository import REPOSITORY
from text_world import CONFIG, prepare, shard_files, texts_of, write_jsonl

from longva_ray.data.text.shards import TokenShardError, TokenShards

SMALL_PIECES = replace(CONFIG, part_tokens=4096, group_bytes=1)
"""So many groups and parts that a run can be killed among them."""


def command(texts: Path, output: Path, tokenizer: str) -> list[str]:
    """The job with the settings of SMALL_PIECES, all of them: a recipe has other defaults."""
    job = [sys.executable, str(REPOSITORY / "jobs/prepare_text.py"), "--texts", str(texts)]
    job += ["--output", str(output)]
    config = replace(SMALL_PIECES, tokenizer=tokenizer, max_tasks=1)
    for field, value in asdict(config).items():
        name = field.replace("_", "-")
        if isinstance(value, bool):
            job.append(f"--text.{name}" if value else f"--text.no-{name}")
        else:
            job += [f"--text.{name}", str(value)]
    return job


@pytest.fixture(scope="module")
def four_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four_files")
    for number in range(4):
        write_jsonl(folder / f"{number}.jsonl", texts_of(number, 60))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster: str,
    four_files: Path,
    tokenizer_folder: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    output = tmp_path_factory.mktemp("undisturbed")
    prepare(four_files, output, tokenizer_folder, SMALL_PIECES)
    return shard_files(output)


def test_a_run_killed_in_either_step_goes_on_and_ends_with_the_same_bytes(
    four_files: Path, undisturbed: dict[str, str], tokenizer_folder: str, tmp_path: Path
) -> None:
    """The driver is killed with SIGKILL as soon as a given file of each step is there."""
    output = tmp_path / "tokens"
    job = command(four_files, output, tokenizer_folder)
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(REPOSITORY)}
    for victim in ("group-00001.arrow", "part-00010.arrow"):
        log = (tmp_path / "log").open("wb")
        run = subprocess.Popen(job, env=environment, stdout=log, stderr=log)
        while run.poll() is None and not any(output.rglob(victim)):
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
        with pytest.raises(TokenShardError, match="no folder of token shards"):
            TokenShards(output)
    finished = {path: path.stat().st_mtime_ns for path in output.rglob("part-*.arrow")}
    assert finished
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "token shards, report.json and report.png are in" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert shard_files(output) == undisturbed
