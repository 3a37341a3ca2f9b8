"""The job that extends and tests in one go, as a user runs it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from repository import PATIENCE_S, REPOSITORY
from training_world import write_base

from longva_ray.evaluate.text.haystack import SHIPPED
from longva_ray.workflows.extend_and_test import split_texts

SETTINGS = shlex.split("""
    --text.sequence-length 600 --text.separator auto --text.task-cpus 0.5
    --extend.steps 2 --extend.sequences-per-step 2 --extend.num-workers 2 --extend.ring-size 2
    --extend.rope-theta 1e5 --extend.max-tokens 600 --extend.cpus-per-worker 0.5
    --niah.lengths 400 600 --niah.depths 0 1 --niah.samples 1 --niah.rope-bases 1e5
    --niah.worker-cpus 0.5 --niah.max-workers 1 --niah.perplexity-windows 1 --niah.prefill-chunk 64
""")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Four essays, of which the last is held out."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "essays"))


@pytest.fixture
def command(texts: Path, tmp_path: Path) -> list[str]:
    base = write_base(tmp_path / "base")
    job = [sys.executable, "jobs/extend_and_test.py", "--recipe", "smollm2_cpu", "--model", base]
    return [*job, "--texts", str(texts), "--out", str(tmp_path / "out"), *SETTINGS]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_extends_and_compares_on_texts_that_were_held_out(
    ray_cluster: str, command: list[str], texts: Path, tmp_path: Path
) -> None:
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    names = sorted(file.name for file in texts.glob("*.txt"))
    assert [file.name for file in (out / "texts" / "held_out").iterdir()] == [names[3]]
    assert sorted(file.name for file in (out / "texts" / "train").iterdir()) == names[:3]
    report = json.loads((out / "niah" / "niah.json").read_text())
    assert [model["name"] for model in report["models"]] == [
        "before",
        "before, training-free best",
        "after",
    ]
    assert [model["training_length"] for model in report["models"]] == [64, 64, 600]
    losses = [model["perplexity"]["loss"] for model in report["models"]]
    assert losses[2] < min(losses[:2])
    assert "up to 64, " in done.stdout
    assert (out / "runs" / "extend" / "final" / "recipe.json").exists()

    (texts / names[0]).write_text("Another text.")
    refused = run(command)
    assert refused.returncode == 1
    assert "holds other texts" in refused.stderr


def test_too_few_texts_are_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 4 \.txt files, of which one in 5 is held out"):
        split_texts(texts, tmp_path / "out" / "texts", 5)
    assert not (tmp_path / "out").exists()
