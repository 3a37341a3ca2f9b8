"""One run, computed in every way: mesh, ZeRO, tiles and the schedule of the ring change no loss.

Each run is compared with one process of plain torch. The processes are those of the pool, which
makes a world of four; a world of one has another pool.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from local_link import train_locally
from safetensors.torch import load_file
from training_world import TiledStage, settings, write_base, write_shards
from worker_pool import WorkerPool

from longva_ray.train.stages.text import TextStage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed"
)

STEPS = 8
VALIDATE_EVERY = 3
OFFLOADED = {"zero_stage": 3, "offload": True}


@pytest.fixture(scope="module")
def lone() -> Iterator[WorkerPool]:
    """A world of one process, which DeepSpeed may fill with its own state."""
    workers = WorkerPool((1,))
    yield workers
    workers.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    # Five held-out rows are no whole number for four or two rings.
    write_shards(folder / "shards", write_base(folder / "base"), num_held_out=5)
    return folder


def train(
    group: dist.ProcessGroup | None, world: Path, name: str, changes: dict[str, Any], tiled: bool
) -> dict[str, float]:
    """Job: train to the end as one rank of the whole world; the losses that rank 0 recorded, of the
    steps and of the held-out rows."""
    regular = {"steps": STEPS, "checkpoint_every": STEPS, "validate_every": VALIDATE_EVERY}
    config = settings(**regular | changes)
    kind = TiledStage if tiled else TextStage
    stage = kind(config, base=str(world / "base"), shards=str(world / "shards"))
    outcome, link = train_locally(stage, config, world / "runs" / name)
    assert outcome.status == "finished", outcome.message
    return {f"step {step}": loss for step, loss in link.losses.items()} | {
        f"held out after {step}": measures["loss"] for step, measures in link.held_out.items()
    }


@pytest.fixture(scope="module")
def plain(world: Path) -> dict[str, float]:
    """Losses of one process of plain torch that holds everything."""
    losses = train(None, world, "plain", {"num_workers": 1, "ring_size": 1}, False)
    assert losses.keys() == {
        *(f"step {step}" for step in range(1, STEPS + 1)),
        *(f"held out after {step}" for step in (3, 6, STEPS)),
    }
    assert losses[f"step {STEPS}"] < losses["step 1"]
    return losses


@pytest.mark.parametrize(
    ("ring", "changes"),
    [
        (1, OFFLOADED),
        (4, OFFLOADED),
        (2, {"zero_stage": 2, "offload": False}),
        (4, {"zero_stage": 0, "ring_schedule": "all_gather"}),
    ],
    ids=["4x1-zero3", "1x4-zero3", "2x2-zero2", "1x4-plain-gathered"],
)
def test_the_mesh_does_not_change_the_losses(
    pool: WorkerPool, world: Path, plain: dict[str, float], ring: int, changes: dict[str, Any]
) -> None:
    """Four rows a step: a ring of four accumulates them, four rings have one each."""
    name = f"mesh-{ring}-{changes['zero_stage']}"
    settings = {"num_workers": 4, "ring_size": ring, **changes}
    losses, *_ = pool.run(train, 4, world, name, settings, False)
    assert losses == pytest.approx(plain, abs=1e-5)
    same_weights(world, name)


def same_weights(world: Path, name: str) -> None:
    wanted, found = (
        load_file(world / "runs" / each / "final" / "model.safetensors") for each in ("plain", name)
    )
    assert found.keys() - wanted.keys() <= {"lm_head.weight"}, "that one is tied to the embedding"
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-2, atol=1e-3, msg=key)


def test_reading_held_out_rows_changes_no_step(world: Path, plain: dict[str, float]) -> None:
    """To the last bit, weights included."""
    changes = {"num_workers": 1, "ring_size": 1, "validate_every": None}
    losses = train(None, world, "never", changes, False)
    assert losses == {name: loss for name, loss in plain.items() if name in losses}
    assert len(losses) == STEPS
    one, other = (
        (world / "runs" / name / "final" / "model.safetensors").read_bytes()
        for name in ("plain", "never")
    )
    assert one == other


def test_a_world_of_one_may_divide_weights_too(
    lone: WorkerPool, world: Path, plain: dict[str, float]
) -> None:
    changes = {"num_workers": 1, "ring_size": 1, **OFFLOADED}
    (losses,) = lone.run(train, 1, world, "lone", changes, False)
    assert losses == pytest.approx(plain, abs=1e-5)


def test_saving_memory_does_not_change_the_losses(
    pool: WorkerPool, world: Path, plain: dict[str, float]
) -> None:
    """Tiled MLPs, checkpoints of activations on the host, weights divided by ZeRO-3."""
    changes = {"checkpoint_activations": True, "offload_activations": True, **OFFLOADED}
    changes |= {"num_workers": 4, "ring_size": 4}
    losses, *_ = pool.run(train, 4, world, "tiled", changes, True)
    assert losses == pytest.approx(plain, abs=1e-5)


def test_bfloat16_trains_to_almost_the_same_losses(
    lone: WorkerPool, world: Path, plain: dict[str, float]
) -> None:
    """ZeRO-1 as recipe smollm2 has it; weights and gradients of 8 bits."""
    changes = {"dtype": "bfloat16", "zero_stage": 1, "num_workers": 1, "ring_size": 1}
    (losses,) = lone.run(train, 1, world, "bfloat16", changes, False)
    assert losses == pytest.approx(plain, rel=0.01)
