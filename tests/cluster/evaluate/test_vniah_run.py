"""The visual needle test from video to figure, on a real cluster; dense and over a ring."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from PIL import Image
from repository import PATIENCE_S, REPOSITORY

from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.video.drawn import make_haystack
from longva_ray.evaluate.video.report import average_over_seeds, describe_vniah
from longva_ray.evaluate.video.run import run_vniah
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import VniahConfig

CONFIG = VniahConfig(
    dtype="float32",
    worker_cpus=0.5,
    worker_gpus=0,
    max_workers=1,
    frames=(12, 24),
    depths=(0.0, 1.0),
    prefill_chunk=16,
    extra_tokens=2,
)


ENCODE = EncodeConfig(dtype="float32", encoder_cpus=0.5, encoder_gpus=0, decode_cpus=0.5)


def run(checkpoint: str, config: VniahConfig, folder: Path, out: str) -> dict[str, Any]:
    subject = Subject(name="tiny", path=checkpoint, dtype="float32", training_length=64)
    return run_vniah(
        [subject],
        [make_haystack(config, folder)],
        store=str(folder / "shards"),
        config=config,
        encode=ENCODE,
        out=folder / out,
    )


def test_dense_plain_and_ring_decide_the_same(
    ray_cluster: str, tiny_checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense = dataclasses.replace(CONFIG, compare_plain=True)
    report = run(tiny_checkpoint, dense, tmp_path, "dense")
    (model,) = report["models"]
    assert model["prefix_reuse"]["trials_with_identical_decisions"] == 2 * 2 * 5 + 2 * 5 + 5
    cells = {(cell["Num. Frame"], cell["Frame Depth"]): cell for cell in model["cells"]}
    assert sorted(cells) == [(12, 0.0), (12, 100.0), (24, 0.0), (24, 100.0)]
    assert all(cell["Score"] == cell["exact"]["score"] for cell in cells.values())
    assert all(cell["exact"]["trials"] == 5 for cell in cells.values())
    assert model["guess_floor"]["exact"]["trials"] == 10
    assert model["ceiling"]["exact"] == {"score": 0.0, "interval_95": ANY, "trials": 5}
    assert "LOW CEILING: it reads 0 of 5 needles" in caplog.text  # it never saw cards
    assert model["training_frames"] == 16
    assert json.loads((tmp_path / "dense" / "vniah.json").read_text())["models"] == [model]
    assert "guess floor, exact" in describe_vniah(report)
    (pooled,) = average_over_seeds([report, report])["models"]
    assert pooled["average"]["exact"]["trials"] == 2 * model["average"]["exact"]["trials"]
    assert [cell["Score"] for cell in pooled["cells"]] == [c["Score"] for c in model["cells"]]
    assert pooled["seed_scores"] == [model["average"]["exact"]["score"]] * 2
    ring = dataclasses.replace(CONFIG, ring_size=2)
    run(tiny_checkpoint, ring, tmp_path, "ring")
    one, two = (ledger(tmp_path / name) for name in ("dense", "ring"))
    assert one.keys() == two.keys()
    for key, outcome in one.items():
        assert two[key]["predicted_ids"] == outcome["predicted_ids"]
        assert two[key]["logprob"] == pytest.approx(outcome["logprob"], abs=1e-3)
    combine(tmp_path)


def ledger(out: Path) -> dict[str, dict[str, Any]]:
    """Outcomes of the first sweep into a folder."""
    file = min(out.glob("ledgers/*.jsonl"), key=lambda path: path.stat().st_mtime)
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return {entry["key"]: entry["outcome"] for entry in entries}


def combine(folder: Path) -> None:
    """Reports of several runs become the panels of one figure, without a cluster."""
    reports = [str(folder / name / "vniah.json") for name in ("dense", "ring")]
    command = [sys.executable, "jobs/eval_vniah.py", "--combine", *reports, "--out", str(folder)]
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=PATIENCE_S)
    with (
        Image.open(folder / "vniah.png") as both,
        Image.open(folder / "dense" / "vniah.png") as single,
    ):
        assert both.height == single.height
        assert both.width > 1.6 * single.width


def test_a_model_that_cannot_see_is_an_error(
    ray_cluster: str, random_lm: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no LongVA checkpoint"):
        run(random_lm, CONFIG, tmp_path, "out")


def test_too_short_a_video_is_an_error(
    ray_cluster: str, tiny_checkpoint: str, tmp_path: Path
) -> None:
    longer = dataclasses.replace(CONFIG, frames=(12, 30))
    subject = Subject(name="tiny", path=tiny_checkpoint, dtype="float32")
    with pytest.raises(ValueError, match="24 frames at 1fps, but the grid asks for 30"):
        run_vniah(
            [subject],
            [make_haystack(CONFIG, tmp_path)],
            store=str(tmp_path / "shards"),
            config=longer,
            encode=ENCODE,
            out=tmp_path / "out",
        )
