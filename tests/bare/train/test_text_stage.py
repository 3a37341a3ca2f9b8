"""The text stage in one process: what is labelled, what is counted, what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from training_world import ROW_TOKENS, settings, write_base, write_shards
from transformers import AutoModelForCausalLM

from longva_ray.data.text.shards import TokenShardError, TokenShards
from longva_ray.files.parts import HELD_OUT
from longva_ray.lm.language_model import load_language_model
from longva_ray.lm.rope import assert_rope
from longva_ray.ring.mesh import make_mesh
from longva_ray.settings.training import ExtendConfig
from longva_ray.train.loop import make_engine
from longva_ray.train.stages.text import TextStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, base: str) -> str:
    return write_shards(tmp_path_factory.mktemp("shards"), base, num_held_out=3)


def alone(**changes: object) -> ExtendConfig:
    return settings(num_workers=1, ring_size=1, **changes)


def built(config: ExtendConfig, base: str, shards: str) -> tuple[TextStage, torch.nn.Module]:
    stage = TextStage(config, base=base, shards=shards)
    return stage, stage.build(make_mesh(ring_size=1), CPU)


@pytest.mark.parametrize("masked", [True, False])
def test_loss_and_labels_are_those_of_transformers(base: str, shards: str, masked: bool) -> None:
    """Against one plain forward pass for each span that may see itself, by SDPA."""
    stage, module = built(
        alone(mask_documents=masked, sequences_per_step=2, rows_per_batch=2), base, shards
    )
    (batch,) = stage.micro_batches(0)
    loss = module(**batch.inputs, denominator=batch.num_labels)

    ids = batch.inputs["input_ids_BL"]
    rows = [ids[:, start : start + ROW_TOKENS] for start in (0, ROW_TOKENS)]
    expected, count = plain_loss(stage, base, shards, rows, masked)
    assert batch.num_labels == count
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows_per_batch", [1, 2])
def test_the_held_out_loss_is_that_of_transformers(
    base: str, shards: str, rows_per_batch: int
) -> None:
    """Of all three rows, the last batch of two being filled with one that counts for nothing."""
    stage, module = built(alone(validate_every=1, rows_per_batch=rows_per_batch), base, shards)
    held_out = f"{shards}/{HELD_OUT}"
    rows = [torch.from_numpy(row.input_ids_T.copy())[None].long() for row in TokenShards(held_out)]
    expected, _ = plain_loss(stage, base, held_out, rows, True)
    with torch.no_grad():
        assert stage.validate(module) == {"loss": pytest.approx(expected, rel=1e-5)}


def plain_loss(
    stage: TextStage, base: str, shards: str, rows: list[torch.Tensor], masked: bool
) -> tuple[float, int]:
    """Mean loss and number of labels of some rows (1, T), by transformers on each span alone."""
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    plain.config.rope_parameters["rope_theta"] = 1e5
    plain = type(plain)(plain.config)
    plain.load_state_dict(stage.model().state_dict())
    total, count = 0.0, 0
    for tokens in rows:
        for start, stop in spans(shards, tokens, masked):
            piece = tokens[:, start:stop]
            with torch.no_grad():
                scores = plain(piece).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(scores, piece[0, 1:], reduction="sum"))
            count += stop - start - 1
    return total / count, count


def spans(shards: str, tokens: torch.Tensor, masked: bool) -> list[tuple[int, int]]:
    """Documents of the row that holds these tokens, without padding."""
    (row,) = [
        row
        for row in TokenShards(shards)
        if torch.equal(torch.from_numpy(row.input_ids_T.copy()).long(), tokens[0])
    ]
    lengths = list(row.document_lengths)
    if row.num_padding:
        lengths.pop()
    if not masked:
        return [(0, sum(lengths))]
    stops = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def test_bf16_training_keeps_the_rotary_base_in_float32(base: str, shards: str) -> None:
    stage, _ = built(alone(dtype="bfloat16", zero_stage=1, rope_theta=1e9), base, shards)
    assert stage.model().dtype == torch.bfloat16
    assert_rope(stage.model(), stage.model().config)


def test_from_scratch_is_another_model_of_the_same_shape(base: str, shards: str) -> None:
    stage, _ = built(alone(from_scratch=True), base, shards)
    given = AutoModelForCausalLM.from_pretrained(base).state_dict()
    fresh = stage.model().state_dict()
    assert {name: t.shape for name, t in given.items()} == {n: t.shape for n, t in fresh.items()}
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(given[name], fresh[name])


def test_the_language_model_of_a_longva_checkpoint_is_extended(
    tiny_checkpoint: str, tmp_path: Path
) -> None:
    """What `--recipe tiny` starts from: the shipped model, of which no weight of the tower is read
    or saved."""
    shards = write_shards(tmp_path / "shards", tiny_checkpoint)
    stage, module = built(alone(), tiny_checkpoint, shards)
    stage.check_inputs()
    batch = stage.micro_batches(0)[0]
    assert torch.isfinite(module(**batch.inputs, denominator=batch.num_labels))
    stage.save(stage.model().state_dict(), tmp_path / "final")
    saved = load_language_model(tmp_path / "final", dtype=torch.float32)
    given = load_language_model(tiny_checkpoint, dtype=torch.float32)
    assert saved.model.config.rope_parameters["rope_theta"] == stage.config.rope_theta
    assert saved.tokenizer.get_vocab() == given.tokenizer.get_vocab()
    for name, weight in given.model.state_dict().items():
        assert torch.equal(saved.model.state_dict()[name], weight), name


def test_accumulated_and_joint_batches_give_the_same_gradients(base: str, shards: str) -> None:
    def norm(rows_per_batch: int) -> float:
        config = alone(rows_per_batch=rows_per_batch)
        stage, module = built(config, base, shards)
        engine = make_engine(module, stage.parameter_groups(), config, CPU)
        batches = stage.micro_batches(0)
        labels = sum(batch.num_labels for batch in batches)
        for batch in batches:
            engine.backward(engine(**batch.inputs, denominator=labels), last=batch is batches[-1])
        return engine.step(0.0)

    assert norm(1) == pytest.approx(norm(4), rel=1e-5)


def test_misfits_are_refused_before_anything_starts(base: str, shards: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--extend\.max-tokens is 49; raise it"):
        TextStage(alone(max_tokens=49), base=base, shards=shards).check_inputs()
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    (damaged / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"damaged.model\.safetensors.*git lfs pull"):
        TextStage(alone(), base=str(damaged), shards=shards).check_inputs()
    TextStage(alone(from_scratch=True), base=str(damaged), shards=shards).check_inputs()
    with pytest.raises(TokenShardError):
        TextStage(alone(), base=base, shards=str(tmp_path))
    with pytest.raises(
        TokenShardError, match=r"holds no rows out.*prepare_text.py --text.held-out"
    ):
        TextStage(alone(validate_every=2), base=base, shards=f"{shards}/{HELD_OUT}")
    with pytest.raises(ValueError, match=r"--extend\.ring-size must divide"):
        settings(num_workers=3, ring_size=2)
    with pytest.raises(ValueError, match="multiple of the number of rings"):
        settings(num_workers=2, ring_size=1, sequences_per_step=3)
    with pytest.raises(ValueError, match="zero-stage 0"):
        settings(dtype="bfloat16")
