"""Preference tuning from a file of pairs to a model that answers, by the jobs on Ray workers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_world import pair, write_pairs
from run_job import run_job
from vision_world import write_base, write_image

from longva_ray.commands import ask
from longva_ray.lm.load import load_longva
from longva_ray.options import parse
from longva_ray.tiny.videos import write_haystack


def records(folder: Path) -> list[dict[str, Any]]:
    """Pairs about a video and a folder of frames, and one that is no pair."""
    write_haystack(folder / "a.mp4", seconds=3, seed=0)
    (folder / "frames").mkdir()
    for number in range(3):
        write_image(folder / "frames" / f"{number}.png", 1, 1, seed=number)
    return [
        pair("video", "a.mp4", "What is it?", "Noise.", "A cat."),
        pair("again", "a.mp4", "Is it long?", "No.", "Yes."),
        pair("frames", "frames", "What is it?", "Noise.", "A cat."),
        pair("same", "a.mp4", "What is it?", "Noise.", "Noise."),
    ]


def test_pairs_become_a_model_that_prefers(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pixels, from which tower and projector learn too."""
    base = write_base(tmp_path / "base")
    pairs = write_pairs(tmp_path, records(tmp_path))
    shards = str(tmp_path / "shards")
    prepare = ("--model", base, "--data", str(pairs), "--store", str(tmp_path / "store"))
    hold_out = ("--preferences.held-out", "1", "--preferences.pixels")
    assert run_job("prepare_preferences", *prepare, "--output", shards, *hold_out) == 0
    reports = [
        json.loads((tmp_path / "shards" / name / "report.json").read_text())
        for name in (".", "held_out")
    ]
    # Either is held out, as their places say, and both pairs about one video are.
    assert sorted(report["written"] for report in reports) == [1, 2]
    left_out = [each for report in reports for each in report["left_out"]]
    assert [each["sample_id"] for each in left_out] == ["same"]
    changes = {
        "steps": 4,
        "sequences-per-step": 2,
        "schedule": "constant",
        "warmup-steps": 0,
        "learning-rate": 3e-3,
        "beta": 0.5,
        "num-workers": 1,
        "cpus-per-worker": 0.5,
        "validate-every": 2,
        "max-failures": 0,
        "train": "all",
    }
    status = run_job(
        "prefer",
        *(
            "--model",
            base,
            "--shards",
            shards,
            "--name",
            "dpo",
            "--storage",
            str(tmp_path / "runs"),
        ),
        *(f"--prefer.{name}={value}" for name, value in changes.items()),
    )
    assert status == 0
    run = tmp_path / "runs" / "dpo"
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert told[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert told[0]["labels"] == 2
    assert told[3]["margin"] > told[0]["margin"]
    assert {"held_out_loss", "held_out_margin", "held_out_accuracy"} < told[1].keys()
    before, after = (
        load_longva(place, dtype=torch.float32)[0].state_dict() for place in (base, run / "final")
    )
    for name, tensor in before.items():
        assert not torch.equal(tensor, after[name]), name
    # Encoded anew by the new tower, beside what the old one made.
    question = [str(tmp_path / "frames" / "0.png"), "What is it?", "--max-new-tokens", "8"]
    places = ["--model", str(run / "final"), "--store", str(tmp_path / "store")]
    capsys.readouterr()
    assert ask.run(parse(ask.Options, question + places)) == 0
    assert capsys.readouterr().out.strip()
