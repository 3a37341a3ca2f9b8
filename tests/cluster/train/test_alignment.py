"""Alignment from files to a model: by the two jobs on real Ray workers, and continued."""

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from repository import JOBS
from vision_world import settings, write_base, write_samples, write_shards

from longva_ray.lm.load import load_longva
from longva_ray.ring.mesh import make_mesh
from longva_ray.settings.training import AlignConfig
from longva_ray.train import loop
from longva_ray.train.loop import Session, StepRecord
from longva_ray.train.stages.alignment import VisionStage
from longva_ray.vision.encoding import Encoding


class LocalSession(Session):
    """A session without Ray: checkpoints stay where they are written."""

    def __init__(self, folder: Path, *, stop_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self._folder = folder
        self._stop_at = stop_at

    def stop_requested(self) -> bool:
        return self._stop_at is not None and len(self.losses) + 1 == self._stop_at

    def record(self, record: StepRecord) -> None:
        self.losses[record.step] = record.loss

    def checkpoint_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def keep(self, folder: Path, record: StepRecord, *, wait: bool) -> None:
        folder.rename(self._folder / f"step_{record.step:07d}")

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield max(self._folder.glob("step_*"), default=None)

    @contextlib.contextmanager
    def final_folder(self) -> Iterator[Path]:
        yield self._folder / "final"


def run_alone(
    config: AlignConfig, base: str, shards: str, folder: Path, *, stop_at: int | None = None
) -> tuple[str, dict[int, float]]:
    """One process without Ray: how it ended, and the losses."""
    folder.mkdir(exist_ok=True)
    session = LocalSession(folder, stop_at=stop_at)
    stage = VisionStage(config, base=base, shards=shards)
    mesh = make_mesh(ring_size=1, device_type="cpu")
    outcome = loop.run(stage, config, mesh, torch.device("cpu"), session)
    return outcome.status, session.losses


def test_a_stopped_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    shards = write_shards(tmp_path / "shards", base, write_samples(tmp_path / "data"))
    config = settings(schedule="cosine", warmup_steps=1, steps=6, checkpoint_every=4)
    status, whole = run_alone(config, base, shards, tmp_path / "whole")
    assert status == "finished"
    assert len(whole) == 6
    status, first = run_alone(config, base, shards, tmp_path / "parts", stop_at=3)
    assert status == "stopped"
    status, second = run_alone(config, base, shards, tmp_path / "parts")
    assert status == "finished"
    assert sorted(first) == [1, 2, 3]
    assert {**first, **second} == whole
    one, other = (
        load_longva(tmp_path / name / "final", dtype=torch.float32)[0].state_dict()
        for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole[6] < whole[1]


# The jobs -----------------------------------------------------------------------------------------


def run_job(name: str, *arguments: str) -> int:
    """A job's main function in this process, on the cluster it is connected to."""
    spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, job)
        spec.loader.exec_module(job)
        return int(job.main(job.parse(job.Options, arguments)))


@pytest.fixture(scope="module")
def folder(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, samples of which one has no image, shards of them, and what the job said."""
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


@pytest.mark.parametrize(
    ("stage", "group", "ring", "encoding"),
    [("projector", "align-projector", 2, "anyres"), ("all", "align", 1, "unires")],
    ids=["projector-ring-anyres", "all-data-parallel-unires-align"],
)
def test_divided_weights_train_as_whole_ones(
    folder: Path, stage: str, group: str, ring: int, encoding: Encoding
) -> None:
    """Two Ray workers under ZeRO-3 with offload against one process of plain torch."""
    base, shards = str(folder / "base"), str(folder / "shards")
    if encoding == "anyres":
        base = write_base(folder / "anyres", encoding)
        shards = write_shards(
            folder / "anyres-shards", base, write_samples(folder / "anyres-data"), row_tokens=250
        )
    changes = {
        "steps": 3,
        "sequences-per-step": 2,
        "schedule": "constant",
        "warmup-steps": 0,
        "learning-rate": 1e-2,
        "weight-decay": 0.0,
        "zero-stage": 3,
        "ring-size": ring,
        "cpus-per-worker": 0.5,
        "grids-per-forward": 2,
        "max-failures": 0,
    }
    options = [f"--{group}.{name}={value}" for name, value in changes.items()]
    status = run_job(
        "align_vision",
        *("--stage", stage, "--name", stage, "--storage", str(folder / "runs")),
        *("--model", base, "--shards", shards),
        *options,
        *(f"--{group}.offload", f"--{group}.checkpoint-activations"),
    )
    assert status == 0
    run = folder / "runs" / stage
    lines = (run / "metrics.jsonl").read_text().splitlines()
    losses = {record["step"]: record["loss"] for record in map(json.loads, lines)}
    recipe = json.loads((run / "final" / "recipe.json").read_text())
    rates = ("projector_learning_rate", "vision_learning_rate")
    config = settings(
        train=stage,
        steps=3,
        betas=(0.9, 0.95),
        **{rate: recipe[group.replace("-", "_")][rate] for rate in rates},
    )
    _, alone = run_alone(config, base, shards, folder / stage)
    assert losses == pytest.approx(alone, abs=1e-4)
    before, after, expected = (
        load_longva(place, dtype=torch.float32)[0].state_dict()
        for place in (base, run / "final", folder / stage / "final")
    )
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-3, msg=name)
        if stage == "projector" and not name.startswith("frame_encoder.projector."):
            assert torch.equal(tensor, before[name]), name
    words = "frame_encoder.projector.words.embeddings_WD"
    assert (words in after) == (encoding == "unires")
    if encoding == "unires":
        assert torch.equal(after[words], before[words])
    newline = "frame_encoder.projector.newline.weight"
    assert (newline in after) == (encoding == "anyres")
    if encoding == "anyres":
        assert not torch.equal(after[newline], before[newline])
