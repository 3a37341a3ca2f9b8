"""Numbers of a fixed tiny run of each stage: a change of arithmetic moves them.

Three steps in float32 on a CPU, in one process of plain torch. The numbers were computed before the
package got its present folders. Kernels for other CPUs sum in another order: without vector
instructions the losses move by less than 1e-6 of their value and the logits by less than 1e-4.
"""

from pathlib import Path

import pytest
import torch
import training_world
import vision_world
from local_link import LocalLink, train_locally
from transformers import PreTrainedModel

from longva_ray.train.stages.alignment import AlignmentStage
from longva_ray.train.stages.text import TextStage

PROMPT = (97, 98, 99, 100, 101)
SHOWN = slice(97, 103)

TEXT_LOSSES = (5.513947129249573, 5.378385901451111, 4.6625367403030396)
TEXT_NORMS = (1.4268132448196411, 7.944326877593994, 2.215052366256714)
TEXT_LOGITS = (0.8475521206, 0.8799793124, 0.7480493188, 0.6143722534, 0.9108842611, 0.7141273022)

ALIGNMENT_LOSSES = (6.507611930370331, 5.417303800582886, 4.395245969295502)
ALIGNMENT_NORMS = (6.997777938842773, 2.8936548233032227, 2.683166742324829)
ALIGNMENT_LOGITS = (
    -1.2252743244,
    0.4825377464,
    -0.7984507680,
    0.3685896397,
    1.2902405262,
    -0.1083453819,
)


def check(link: LocalLink, losses: tuple[float, ...], norms: tuple[float, ...]) -> None:
    records = link.records.values()
    assert [record.loss for record in records] == pytest.approx(losses, rel=1e-5)
    assert [record.grad_norm for record in records] == pytest.approx(norms, rel=1e-4)


def logits(model: PreTrainedModel) -> list[float]:
    """Some scores for the word after a fixed prompt, by transformers' own forward pass."""
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        scores_BLV = model.eval()(input_ids=torch.tensor([PROMPT])).logits
    return scores_BLV[0, -1, SHOWN].tolist()


def test_three_steps_of_text(tmp_path: Path) -> None:
    base = training_world.write_base(tmp_path / "base")
    shards = training_world.write_shards(tmp_path / "shards", base)
    config = training_world.settings(steps=3, num_workers=1, ring_size=1)
    stage = TextStage(config, base=base, shards=shards)
    _, link = train_locally(stage, config, tmp_path / "run")
    check(link, TEXT_LOSSES, TEXT_NORMS)
    assert [record.labels for record in link.records.values()] == [173, 183, 178]
    assert logits(stage.model()) == pytest.approx(TEXT_LOGITS, rel=1e-4, abs=1e-4)


def test_three_steps_of_alignment(tmp_path: Path) -> None:
    base = vision_world.write_base(tmp_path / "base")
    samples = vision_world.write_samples(tmp_path / "data")
    shards = vision_world.write_shards(tmp_path / "shards", base, samples)
    config = vision_world.settings(steps=3)
    stage = AlignmentStage(config, base=base, shards=shards)
    _, link = train_locally(stage, config, tmp_path / "run")
    check(link, ALIGNMENT_LOSSES, ALIGNMENT_NORMS)
    assert [record.labels for record in link.records.values()] == [38, 60, 30]
    assert logits(stage.model()) == pytest.approx(ALIGNMENT_LOGITS, rel=1e-4, abs=1e-4)
