"""Alignment with divided weights, as rings and in parallel, against one process of plain torch."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from local_link import train_locally
from vision_world import settings, write_base, write_samples, write_shards
from worker_pool import WorkerPool

from longva_ray.data.images.shards import VisionShards
from longva_ray.files.parts import HELD_OUT
from longva_ray.lm.load import load_longva
from longva_ray.train.stages.alignment import AlignmentStage
from longva_ray.vision.encoding import Encoding

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed"
)


def align(
    group: dist.ProcessGroup | None, folder: Path, name: str, changes: dict[str, Any]
) -> tuple[dict[int, float], dict[int, dict[str, float]]]:
    """Job: train to the end as one rank of the whole world; the losses that rank 0 recorded, and
    what it said of the held-out rows."""
    config = settings(steps=3, betas=(0.9, 0.95), validate_every=2, **changes)
    stage = AlignmentStage(config, base=str(folder / "base"), shards=str(folder / "shards"))
    outcome, link = train_locally(stage, config, folder / name)
    assert outcome.status == "finished", outcome.message
    return link.losses, link.held_out


@pytest.mark.parametrize(
    ("train", "ring", "encoding"),
    [("projector", 4, "anyres"), ("all", 2, "unires")],
    ids=["projector-ring-anyres", "all-data-parallel-unires-align"],
)
def test_divided_weights_train_as_whole_ones(
    pool: WorkerPool, tmp_path: Path, train: str, ring: int, encoding: Encoding
) -> None:
    """Four processes under ZeRO-3 with offload and checkpoints."""
    kind, row_tokens = ("mlp", 250) if encoding == "anyres" else ("align", 200)
    base = write_base(tmp_path / "base", encoding, kind)
    samples = write_samples(tmp_path / "data")
    write_shards(tmp_path / "shards", base, samples, row_tokens=row_tokens)
    held_out = tmp_path / "shards" / HELD_OUT
    write_shards(held_out, base, samples, row_tokens=row_tokens + 50)
    assert len(VisionShards(held_out)) == 3, "no whole number for two rings"
    rates = {"projector_learning_rate": 5e-3, "train": train}
    divided = {
        "zero_stage": 3,
        "offload": True,
        "checkpoint_activations": True,
        "num_workers": 4,
        "ring_size": ring,
    }
    (losses, held_out), *_ = pool.run(align, 4, tmp_path, "divided", rates | divided)
    alone, held_out_alone = align(None, tmp_path, "alone", rates)
    assert losses == pytest.approx(alone, abs=1e-4)
    assert sorted(held_out) == sorted(held_out_alone) == [2, 3]
    for step, measures in held_out_alone.items():
        assert held_out[step] == pytest.approx(measures, abs=1e-4)
    before, after, expected = (
        load_longva(place, dtype=torch.float32)[0].state_dict()
        for place in (base, tmp_path / "divided" / "final", tmp_path / "alone" / "final")
    )
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-3, msg=name)
        if train == "projector" and not name.startswith("frame_encoder.projector."):
            assert torch.equal(tensor, before[name]), name
    words = "frame_encoder.projector.words.embeddings_WD"
    assert (words in after) == (encoding == "unires")
    if encoding == "unires":
        assert torch.equal(after[words], before[words])
    newline = "frame_encoder.projector.newline.weight"
    assert (newline in after) == (encoding == "anyres")
    if encoding == "anyres":
        assert not torch.equal(after[newline], before[newline])
