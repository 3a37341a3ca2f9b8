"""Sweeps on a real cluster: rings, lost workers, kills, and what a second run still does."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import torch
import torch.distributed as dist
from PIL import Image
from repository import PATIENCE_S, REPOSITORY

from longva_ray.evaluate.ledger import Ledger, TrialOutcome
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.sweep import num_gangs, sweep
from longva_ray.evaluate.text.run import run_niah
from longva_ray.settings.needles import NiahConfig

CONFIG = NiahConfig(dtype="float32", worker_cpus=0.5, worker_gpus=0, max_workers=1)


def subject(path: str, name: str = "model") -> Subject:
    return Subject(name=name, path=path, dtype="float32", training_length=350)


def test_a_ring_of_two_processes_decides_as_one_does(
    ray_cluster: str, random_lm: str, small_grid: NiahConfig, tmp_path: Path
) -> None:
    dense = dataclasses.replace(small_grid, max_workers=1, samples=1)
    ring = dataclasses.replace(dense, ring_size=2)
    reports = {
        size: run_niah([subject(random_lm)], config, tmp_path / str(size))
        for size, config in ((1, dense), (2, ring))
    }
    outcomes = {}
    for size, report in reports.items():
        ledger = Ledger(tmp_path / str(size) / "ledgers", ledger_name(report))
        keys = [line["key"] for line in map(json.loads, ledger.path.read_text().splitlines())]
        outcomes[size] = {key: ledger[key] for key in keys}
    assert outcomes[1].keys() == outcomes[2].keys()
    assert len(outcomes[1]) == 2 * 2 * 3 + 1
    for key, one in outcomes[1].items():
        two = outcomes[2][key]
        if key == "window-0-of-1":
            assert two["nll"] == pytest.approx(one["nll"], abs=1e-4)
            continue
        assert (two["exact"], two["predicted"]) == (one["exact"], one["predicted"])
        assert two["logprob"] == pytest.approx(one["logprob"], abs=1e-3)
        assert two["generated"] is None
        assert one["generated"] is False


def ledger_name(report: dict) -> str:
    return str(report["models"][0]["ledger"]).removeprefix("ledger-").removesuffix(".jsonl")


def test_report_and_figures_with_the_training_free_baseline(
    ray_cluster: str, random_lm: str, small_grid: NiahConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(small_grid, max_workers=1, samples=1, rope_bases=(1e5, 1e6))
    models = [subject(random_lm, "before"), subject(random_lm, "after")]
    report = run_niah(models, config, tmp_path)
    written = json.loads((tmp_path / "niah.json").read_text())
    assert written["models"] == report["models"]
    assert written["settings"]["lengths"] == [300, 420]
    assert set(written["versions"]) >= {"torch", "transformers", "longva-ray"}
    names = [model["name"] for model in report["models"]]
    assert names == ["before", "before, training-free best", "after"]
    assert [model["rope_base"] for model in report["training_free"]] == [1e5, 1e6]
    assert report["models"][1]["rope_base"] in (1e5, 1e6)
    assert report["models"][0]["rope_base"] == 1e4
    first = report["models"][0]
    assert len(first["cells"]) == 12
    assert first["average"]["exact"]["trials"] == 12
    low, high = first["average"]["exact"]["interval_95"]
    assert low <= first["average"]["exact"]["score"] <= high
    assert len(first["perplexity"]["perplexity"]) == 32
    # Stretches of 13 and 14 positions: almost the plain mean.
    logs = [math.log(value) for value in first["perplexity"]["perplexity"]]
    assert first["perplexity"]["loss"] == pytest.approx(sum(logs) / 32, rel=0.01)
    assert report["models"][1]["perplexity"] != first["perplexity"]
    with Image.open(tmp_path / "niah.png") as figure:
        assert figure.width > figure.height  # three panels in each of two rows
    assert (tmp_path / "perplexity.png").exists()


class Flaky:
    """Doubles numbers; kills its own process, once, at a number it was told."""

    def __init__(self, folder: str, fatal: int, group: dist.ProcessGroup | None = None) -> None:
        self._mark = Path(folder) / "died"
        self._fatal = fatal
        self._group = group

    def __call__(self, numbers: Sequence[int]) -> dict[str, TrialOutcome]:
        rank = 0 if self._group is None else dist.get_rank(self._group)
        last = self._group is None or rank == dist.get_world_size(self._group) - 1
        if self._fatal in numbers and last and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._group is not None:
            dist.barrier(self._group)
        if -1 in numbers:
            raise ValueError("minus one is no number")
        if -2 in numbers:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {str(number): {"double": 2 * number} for number in numbers}


class Idle:
    """Takes resources and does nothing."""


@pytest.fixture(scope="module")
def flaky() -> type[Flaky]:
    """By value: the worker processes cannot import a test module."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return Flaky


@pytest.mark.parametrize("ring_size", [1, 2])
def test_a_killed_worker_is_replaced(
    ray_cluster: str, flaky: type[Flaky], tmp_path: Path, ring_size: int
) -> None:
    ledger = Ledger(tmp_path, "f")
    sweep(
        "flaky",
        [[1, 2], [3], [4, 5]],
        str,
        flaky,
        {"folder": str(tmp_path), "fatal": 3},
        config=dataclasses.replace(CONFIG, ring_size=ring_size),
        ledger=ledger,
    )
    assert (tmp_path / "died").exists()
    assert {key: ledger[key]["double"] for key in "12345"} == {str(n): 2 * n for n in range(1, 6)}


def test_a_worker_without_room_holds_no_trials(
    ray_cluster: str, flaky: type[Flaky], tmp_path: Path
) -> None:
    """Something else uses the cluster, so that only one of two workers can come up."""
    ledger = Ledger(tmp_path, "f")
    config = dataclasses.replace(CONFIG, max_workers=2)
    other = ray.remote(Idle).options(
        num_cpus=ray.available_resources()["CPU"] - 1.5 * config.worker_cpus
    )
    actor = other.remote()
    ray.get(actor.__ray_ready__.remote())
    arguments = {"folder": str(tmp_path), "fatal": 99}
    sweep("flaky", [[1], [2], [3]], str, flaky, arguments, config=config, ledger=ledger)
    assert all(number in ledger for number in "123")
    ray.kill(actor)


def test_a_users_mistake_in_a_worker_is_told_as_such(
    ray_cluster: str, flaky: type[Flaky], tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, "f")
    arguments = {"folder": str(tmp_path), "fatal": 99}
    with pytest.raises(ValueError, match="minus one is no number"):
        sweep("flaky", [[1], [-1]], str, flaky, arguments, config=CONFIG, ledger=ledger)
    assert "1" in ledger
    with pytest.raises(
        ValueError, match=r"GPU is full \(CUDA out of memory\.\); lower --niah\.pref"
    ):
        sweep("flaky", [[-2]], str, flaky, arguments, config=CONFIG, ledger=ledger)


def test_what_the_ledger_has_is_not_done_again(
    ray_cluster: str, flaky: type[Flaky], tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, "f")
    ledger.record({"1": {"double": "kept"}, "2": {"double": "kept"}})
    arguments = {"folder": str(tmp_path), "fatal": 2}
    sweep("flaky", [[1, 2], [3, 1]], str, flaky, arguments, config=CONFIG, ledger=ledger)
    assert ledger["1"] == ledger["2"] == {"double": "kept"}
    assert ledger["3"] == {"double": 6}
    assert not (tmp_path / "died").exists()


def test_a_cluster_that_is_too_small_is_an_error(ray_cluster: str) -> None:
    assert num_gangs(CONFIG) == 1
    assert num_gangs(dataclasses.replace(CONFIG, max_workers=None)) == 8
    assert num_gangs(dataclasses.replace(CONFIG, max_workers=None, ring_size=4)) == 2
    with pytest.raises(ValueError, match=r"1 GPU.* do not fit"):
        num_gangs(dataclasses.replace(CONFIG, worker_gpus=1, max_workers=None))
    assert num_gangs(dataclasses.replace(CONFIG, worker_gpus=1, max_workers=3)) == 3


def test_a_stopped_job_goes_on_where_it_stopped(
    ray_cluster: str, random_lm: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "jobs/eval_niah.py", "--models", f"a={random_lm}", "--out", str(out)]
    command += ["--niah.lengths", "600", "900", "--niah.samples", "20", "--niah.max-workers", "1"]
    command += ["--niah.perplexity-windows", "0", "--niah.prefill-chunk", "16"]
    command += ["--niah.distractors", "0", "--niah.rope-bases"]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    log = (tmp_path / "log").open("w")
    options = {"cwd": REPOSITORY, "stdout": log, "stderr": log, "env": environment}
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    done = 0
    while process.poll() is None and done < 8:
        time.sleep(0.05)
        files = list(out.glob("ledgers/*.jsonl"))
        done = files[0].read_text().count("\n") if files else 0
    assert process.poll() is None, (tmp_path / "log").read_text()
    process.terminate()
    said = (tmp_path / "log").read_text
    assert process.wait(timeout=PATIENCE_S) == 128 + signal.SIGTERM, said()
    assert "stopped by SIGTERM" in said()
    assert "Traceback" not in said()
    assert "*** S" not in said()  # what the C++ side of Ray prints when it aborts
    (file,) = out.glob("ledgers/*.jsonl")
    first = file.read_text().splitlines()
    assert 8 <= len(first) < 200
    assert not (out / "niah.json").exists()
    subprocess.run(command, check=True, timeout=PATIENCE_S, **options)  # type: ignore[call-overload]
    lines = file.read_text().splitlines()
    assert lines[: len(first) - 1] == first[:-1]
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 200
    assert f"{len(first)} of 200 trials are in" in (tmp_path / "log").read_text()
    report = json.loads((out / "niah.json").read_text())
    assert report["models"][0]["average"]["exact"]["trials"] == 200
