"""Jobs as users run them: submitted to a cluster from the repository's root."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

from repository import JOBS, PATIENCE_S, REPOSITORY

from longva_ray.shards.store import ShardStore

RAY = str(Path(sys.executable).parent / "ray")


def ray_job(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", arguments[0], "--address", dashboard, *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


def submit(dashboard: str, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """Submit a job and wait for it; its output is fetched afterwards, whole.

    What `ray job submit` follows can end before the job's last lines.
    """
    name = f"test-{uuid.uuid4().hex}"
    folder = ["--working-dir", str(REPOSITORY)]
    command = ["submit", "--submission-id", name, *folder, "--", sys.executable, *entrypoint]
    done = ray_job(dashboard, *command)
    done.stdout = ray_job(dashboard, "logs", name).stdout
    return done


def test_help_of_every_job_loads_nothing_heavy() -> None:
    code = """
import runpy, sys
for job in sys.argv[1:]:
    sys.argv = [job, "--help"]
    try:
        runpy.run_path(job, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, job
    heavy = {"torch", "ray", "transformers"} & set(sys.modules)
    assert not heavy, f"{job} loads {heavy}"
"""
    jobs = sorted(map(str, JOBS.glob("*.py")))
    done = subprocess.run(
        [sys.executable, "-c", code, *jobs], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(jobs)


def test_a_submitted_job_encodes_what_it_can_and_names_the_rest(
    ray_cluster: str, counting_video: Path, real_clip: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    bad, report, store = (tmp_path / name for name in ("bad.mp4", "report.json", "store"))
    bad.write_bytes(b"\0" * 1000)
    videos = [str(path) for path in (bad, counting_video, real_clip)]
    options = ["--model", tiny_checkpoint, "--store", str(store), "--report", str(report)]
    done = submit(ray_cluster, "jobs/encode_videos.py", *options, "--videos", *videos)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bad.mp4  FAILED: " in done.stdout
    assert "2 of 3 videos" in done.stdout
    records = ShardStore(store).records()
    assert {record.source for record in records} == {"counting.mp4", "bigbuckbunny.mp4"}
    assert "bad.mp4" in report.read_text()


def test_a_relative_store_in_a_job_is_refused(ray_cluster: str, counting_video: Path) -> None:
    done = submit(
        ray_cluster, "jobs/encode_videos.py", "--videos", str(counting_video), "--store", "shards"
    )
    assert done.returncode == 1
    assert "temporary copy" in done.stdout
