"""The loop in one process: a run that cannot continue ends; a run that can, continues exactly."""

from pathlib import Path

import torch
import training_world
import vision_world
from local_link import LocalLink, train_locally
from safetensors.torch import load_file, save_file

from longva_ray.files.parts import HELD_OUT
from longva_ray.lm.load import load_longva
from longva_ray.train.stages.alignment import AlignmentStage
from longva_ray.train.stages.text import TextStage


def test_a_run_that_diverges_ends_before_anything_is_saved(tmp_path: Path) -> None:
    base = training_world.write_base(tmp_path / "base")
    shards = training_world.write_shards(tmp_path / "shards", base)
    config = training_world.settings(
        steps=20, learning_rate=1e15, checkpoint_every=1, num_workers=1, ring_size=1
    )
    stage = TextStage(config, base=base, shards=shards)
    outcome, link = train_locally(stage, config, tmp_path / "run")
    assert outcome.status == "diverged"
    assert outcome.step < 20
    assert "nan" in outcome.message or "inf" in outcome.message
    kept = [path.name for path in (tmp_path / "run").glob("step_*")]
    assert max(kept) == f"step_{outcome.step:07d}"
    assert max(link.losses) == outcome.step
    assert not (tmp_path / "run" / "final").exists()


def test_weights_that_are_broken_from_the_start_are_named(tmp_path: Path) -> None:
    base = training_world.write_base(tmp_path / "base")
    shards = training_world.write_shards(tmp_path / "shards", base)
    file = tmp_path / "base" / "model.safetensors"
    save_file({name: weight * 1e38 for name, weight in load_file(file).items()}, file)
    config = training_world.settings(num_workers=1, ring_size=1)
    stage = TextStage(config, base=base, shards=shards)
    outcome, link = train_locally(stage, config, tmp_path / "run")
    assert (outcome.status, outcome.step, link.losses) == ("diverged", 0, {})
    assert "gradient norm nan; nothing was trained before it" in outcome.message
    assert f"the weights of {base} are damaged or leave the range of float32" in outcome.message


def test_held_out_rows_whose_loss_is_not_finite_end_the_run(tmp_path: Path) -> None:
    class Broken(TextStage):
        def validate(self, run: object) -> dict[str, float]:
            return {"loss": float("nan")}

    base = training_world.write_base(tmp_path / "base")
    shards = training_world.write_shards(tmp_path / "shards", base, num_held_out=2)
    config = training_world.settings(
        num_workers=1, ring_size=1, checkpoint_every=1, validate_every=2
    )
    outcome, _ = train_locally(Broken(config, base=base, shards=shards), config, tmp_path / "run")
    assert (outcome.status, outcome.step) == ("diverged", 1)
    assert "held-out loss nan" in outcome.message
    assert [path.name for path in (tmp_path / "run").glob("step_*")] == ["step_0000001"]


def test_a_stopped_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    base = vision_world.write_base(tmp_path / "base")
    samples = vision_world.write_samples(tmp_path / "data")
    shards = vision_world.write_shards(tmp_path / "shards", base, samples)
    vision_world.write_shards(tmp_path / "shards" / HELD_OUT, base, samples)
    config = vision_world.settings(
        schedule="cosine", warmup_steps=1, steps=6, checkpoint_every=4, validate_every=2
    )

    def run(name: str, stop_at: int | None = None) -> tuple[str, LocalLink]:
        stage = AlignmentStage(config, base=base, shards=shards)
        outcome, link = train_locally(stage, config, tmp_path / name, stop_at=stop_at)
        return outcome.status, link

    status, link = run("whole")
    assert status == "finished"
    whole = link.losses
    assert len(whole) == 6
    status, first = run("parts", stop_at=3)
    assert status == "stopped"
    status, second = run("parts")
    assert status == "finished"
    assert sorted(first.losses) == [1, 2, 3]
    assert {**first.losses, **second.losses} == whole
    assert sorted(first.held_out) == [2]
    assert {**first.held_out, **second.held_out} == link.held_out
    assert sorted(link.held_out) == [2, 4, 6]
    one, other = (
        load_longva(tmp_path / name / "final", dtype=torch.float32)[0].state_dict()
        for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole[6] < whole[1]
