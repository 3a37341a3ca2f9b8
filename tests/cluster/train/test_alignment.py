"""Alignment from files to a model, by the two jobs on real Ray workers."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from local_link import train_locally
from run_job import run_job
from vision_world import settings, write_base, write_samples

from longva_ray.lm.load import load_longva
from longva_ray.settings.training import AlignConfig
from longva_ray.train.records import Outcome
from longva_ray.train.run import launch
from longva_ray.train.stages.alignment import AlignmentStage


@pytest.fixture(scope="module")
def folder(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, samples (one without an image), their shards, and the job's output."""
    folder = tmp_path_factory.mktemp("jobs")
    write_base(folder / "base", projector="align")
    samples = write_samples(folder / "data")
    entries = json.loads(samples.read_text())
    samples.write_text(json.dumps([{**entries[0], "id": "gone", "image": "no.png"}, *entries]))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = run_job(
            "prepare_images",
            *("--model", str(folder / "base"), "--data", str(samples)),
            *("--output", str(folder / "shards"), "--images.row-tokens", "200"),
        )
    assert status == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder


def test_images_become_shards(folder: Path) -> None:
    said = (folder / "said.txt").read_text()
    assert "6 samples, 5 written, 4 rows" in said
    assert "1 samples were left out\n  gone: image" in said


def test_two_workers_align_as_one_process_does(folder: Path) -> None:
    """The job on Ray workers, under ZeRO-3 with offload, against plain torch without Ray."""
    base, shards = str(folder / "base"), str(folder / "shards")
    changes = {
        "steps": 3,
        "sequences-per-step": 2,
        "schedule": "constant",
        "warmup-steps": 0,
        "learning-rate": 1e-2,
        "weight-decay": 0.0,
        "zero-stage": 3,
        "ring-size": 1,
        "cpus-per-worker": 0.5,
        "grids-per-forward": 2,
        "max-failures": 0,
    }
    status = run_job(
        "align_vision",
        *("--stage", "all", "--name", "all", "--storage", str(folder / "runs")),
        *("--model", base, "--shards", shards, "--align.offload", "--align.checkpoint-activations"),
        *(f"--align.{name}={value}" for name, value in changes.items()),
    )
    assert status == 0
    run = folder / "runs" / "all"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    losses = {record["step"]: record["loss"] for record in map(json.loads, lines)}
    recipe = json.loads((run / "final" / "recipe.json").read_text())["align"]
    rates = ("projector_learning_rate", "vision_learning_rate")
    config = settings(steps=3, betas=(0.9, 0.95), **{rate: recipe[rate] for rate in rates})
    stage = AlignmentStage(config, base=base, shards=shards)
    _, link = train_locally(stage, config, folder / "alone")
    assert losses == pytest.approx(link.losses, abs=1e-4)
    found, expected = (
        load_longva(place / "final", dtype=torch.float32)[0].state_dict()
        for place in (run, folder / "alone")
    )
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-3, msg=name)


def test_each_stage_has_settings_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[AlignConfig] = []

    def instead(stage: AlignmentStage, config: AlignConfig, **rest: object) -> Outcome:
        started.append(config)
        return Outcome(status="finished", step=config.steps)

    monkeypatch.setattr(launch, "train", instead)
    place = ("--model", str(folder / "base"), "--shards", str(folder / "shards"), "--name", "none")
    where = (*place, "--storage", str(folder / "runs"), "--stage")
    assert run_job("align_vision", *where, "projector", "--align-projector.steps", "7") == 0
    assert run_job("align_vision", *where, "all", "--align.steps", "8") == 0
    assert [(each.train, each.steps) for each in started] == [("projector", 7), ("all", 8)]
    with pytest.raises(ValueError, match="not for --stage projector"):
        run_job("align_vision", *where, "projector", "--align.steps", "8")
