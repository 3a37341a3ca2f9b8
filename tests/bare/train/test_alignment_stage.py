"""The alignment stage: plain transformers' losses and gradients, whatever is packed or divided."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from local_link import train_locally
from transformers import AutoModelForImageTextToText
from vision_world import (
    conversation,
    gradients,
    settings,
    write_base,
    write_image,
    write_samples,
    write_shards,
)
from worker_pool import WorkerPool

from longva_ray.data.images.shards import VisionRow, VisionShards
from longva_ray.files.parts import HELD_OUT
from longva_ray.lm.auto_classes import register_longva
from longva_ray.lm.load import load_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.ring.mesh import make_mesh
from longva_ray.settings.training import AlignConfig
from longva_ray.train.loop import make_engine
from longva_ray.train.stages.alignment import AlignmentStage
from longva_ray.vision.anyres import NEWLINE

CPU = torch.device("cpu")
STEPS_TO_LEARN = 10


WORDS = "frame_encoder.projector.words.embeddings_WD"


@pytest.fixture(
    scope="module",
    params=[("unires", 200, "mlp"), ("anyres", 250, "mlp"), ("unires", 200, "align")],
    ids=["unires", "anyres", "unires-align"],
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and five samples in four rows of at most that many tokens."""
    encoding, row_tokens, projector = request.param
    folder = tmp_path_factory.mktemp("alignment")
    base = write_base(folder / "base", encoding, projector)
    write_shards(folder / "shards", base, write_samples(folder / "data"), row_tokens=row_tokens)
    return folder


def built(config: AlignConfig, world: Path) -> tuple[AlignmentStage, torch.nn.Module]:
    stage = AlignmentStage(config, base=str(world / "base"), shards=str(world / "shards"))
    return stage, stage.build(make_mesh(ring_size=config.ring_size), CPU)


def plain_scores(
    world: Path, model: LongVAForConditionalGeneration
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each sample, scores of its tokens 1 .. T-1, their ids, and whether they are trained on:
    transformers' own forward pass, by SDPA, on this sample alone."""
    for row in VisionShards(str(world / "shards")):
        start = shown = 0
        for length in row.document_lengths:
            ids = torch.tensor(row.input_ids_T[start : start + length])[None].long()
            trained = torch.tensor(row.is_label_T[start : start + length])
            num_tokens = int((ids == model.config.image_token_id).sum())
            images = images_of(row, slice(shown, shown + num_tokens)) if num_tokens else {}
            yield model(input_ids=ids, **images).logits[0, :-1], ids[0, 1:], trained[1:]
            start, shown = start + length, shown + num_tokens


def plain_loss(world: Path, model: LongVAForConditionalGeneration) -> torch.Tensor:
    """Mean over the answers' tokens of all samples."""
    losses = [
        torch.nn.functional.cross_entropy(scores[trained], ids[trained], reduction="sum")
        for scores, ids, trained in plain_scores(world, model)
    ]
    return torch.stack(losses).sum() / VisionShards(str(world / "shards")).metadata.num_trained


def images_of(row: VisionRow, tokens: slice) -> dict[str, torch.Tensor]:
    """What transformers' forward takes for the images of one sample: its visual tokens in a row."""
    source_S2 = torch.tensor(row.source_S2[tokens])
    in_grid_S = source_S2[:, 0] != NEWLINE
    first, last = source_S2[in_grid_S, 0].min(), source_S2[in_grid_S, 0].max()
    source_S2[in_grid_S, 0] -= first
    pixels = torch.tensor(row.grids_GYXC[first : last + 1])
    return {"pixel_values": pixels, "image_sources": source_S2}


def plain_step(world: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of all samples as one step."""
    model, _ = load_longva(world / "base", dtype=torch.float32, attn_implementation="sdpa")
    model.train()
    loss = plain_loss(world, model)
    loss.backward()
    return float(loss.detach()), gradients(model)


def step_losses(stage: AlignmentStage, module: torch.nn.Module) -> float:
    """Loss of the first step, after its backward pass; gradients are averaged over all ranks."""
    batches = stage.micro_batches(0)
    labels = torch.tensor(sum(batch.num_labels for batch in batches))
    if dist.is_initialized():
        dist.all_reduce(labels)
    total = 0.0
    for batch in batches:
        loss = module(**batch.inputs, denominator=int(labels))
        loss.backward()
        total += float(loss.detach())
    return total


def test_packed_rows_are_the_samples_alone(world: Path) -> None:
    rows = len(VisionShards(str(world / "shards")))
    assert 1 < rows < 5, "rows hold several samples"
    stage, module = built(settings(sequences_per_step=rows), world)
    loss = step_losses(stage, module)
    expected, expected_gradients = plain_step(world)
    assert loss == pytest.approx(expected, rel=1e-5)
    found = gradients(stage.model())
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_held_out_answers_are_judged_as_by_transformers(world: Path, tmp_path: Path) -> None:
    """After some steps on the very answers, so that some of them are right; each sample alone by
    transformers' own forward pass."""
    (tmp_path / "base").symlink_to(world / "base")
    shutil.copytree(world / "shards", tmp_path / "shards")
    shutil.copytree(world / "shards", tmp_path / "shards" / HELD_OUT)
    config = settings(steps=STEPS_TO_LEARN, sequences_per_step=4, validate_every=STEPS_TO_LEARN)
    stage = AlignmentStage(config, base=str(world / "base"), shards=str(tmp_path / "shards"))
    _, link = train_locally(stage, config, tmp_path / "run")
    found = link.held_out[STEPS_TO_LEARN]
    place = tmp_path / "run" / "final"
    model, _ = load_longva(place, dtype=torch.float32, attn_implementation="sdpa")
    tokens, answers = [], []
    with torch.no_grad():
        assert found["loss"] == pytest.approx(float(plain_loss(world, model)), rel=1e-4)
        for scores, ids, trained in plain_scores(world, model):
            right = (scores.argmax(dim=-1) == ids).tolist()
            tokens += [r for r, is_trained in zip(right, trained, strict=True) if is_trained]
            pairs = zip(trained.tolist(), right, strict=True)
            runs = itertools.groupby(pairs, lambda pair: pair[0])
            answers += [all(r for _, r in run) for is_trained, run in runs if is_trained]
    assert len(answers) == 6
    assert found["token_accuracy"] == sum(tokens) / len(tokens)
    assert found["answer_accuracy"] == sum(answers) / len(answers)
    assert 0 < found["answer_accuracy"] < found["token_accuracy"] < 1


def divided(
    group: dist.ProcessGroup, world: Path, ring_size: int, checkpointed: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    """Job: loss and gradients of one step as one of four ranks."""
    config = settings(
        num_workers=4,
        ring_size=ring_size,
        sequences_per_step=4,
        checkpoint_activations=checkpointed,
    )
    stage, module = built(config, world)
    loss = step_losses(stage, module)
    found = gradients(stage.model())
    for gradient in found.values():
        dist.all_reduce(gradient)
        gradient /= 4
    return loss, found


@pytest.mark.parametrize("ring_size", [4, 2, 1])
def test_rings_and_data_parallel_change_nothing(
    pool: WorkerPool, world: Path, ring_size: int
) -> None:
    """Four rows: on four ranks as 1 x 4, 2 x 2 and 4 x 1, against samples alone by plain
    transformers."""
    assert len(VisionShards(str(world / "shards"))) == 4
    expected, expected_gradients = plain_step(world)
    for checkpointed in (False, True):
        for loss, found in pool.run(divided, 4, world, ring_size, checkpointed):
            assert loss == pytest.approx(expected, rel=1e-5), checkpointed
            for name, gradient in expected_gradients.items():
                message = f"{name}, checkpointed {checkpointed}"
                torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=message)


def test_packed_samples_do_not_see_each_other(tmp_path: Path) -> None:
    """Another image moves the loss of its own sample and of no other in the row."""
    base = write_base(tmp_path / "base")
    samples = write_samples(tmp_path / "data")

    def losses(name: str) -> dict[str, float]:
        world = tmp_path / name
        world.mkdir()
        (world / "base").symlink_to(base)
        shards = write_shards(world / "shards", base, samples, row_tokens=2000)
        (row,) = [VisionShards(shards)[0]]
        stage, module = built(settings(sequences_per_step=1), world)
        (batch,) = stage.micro_batches(0)
        found, start = {}, 0
        labels = batch.inputs["labels_BL"]
        for sample, length in zip(row.sample_ids, row.document_lengths, strict=True):
            only = torch.full_like(labels, -100)
            only[:, start : start + length] = labels[:, start : start + length]
            inputs = {**batch.inputs, "labels_BL": only}
            found[sample] = float(module(**inputs, denominator=1).detach())
            start += length
        return found

    before = losses("before")
    write_image(tmp_path / "data" / "b.png", 3, 2, seed=99)
    after = losses("after")
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"turns"}
    assert len(before) == 5


def test_stage_one_moves_the_projector_alone(world: Path) -> None:
    config = settings(train="projector")
    stage, module = built(config, world)
    before = {name: tensor.clone() for name, tensor in stage.model().state_dict().items()}
    engine = make_engine(module, stage.parameter_groups(), config, CPU)
    step_losses(stage, engine)
    engine.step(1e-2)
    for name, tensor in stage.model().state_dict().items():
        moved = not torch.equal(tensor, before[name])
        learns = name.startswith("frame_encoder.projector.") and name != WORDS
        assert moved == learns, name


def test_each_module_learns_at_its_rate(world: Path) -> None:
    """The first step of AdamW without decay moves every weight by its learning rate."""
    config = settings(learning_rate=1e-2, vision_learning_rate=2e-3)
    stage, module = built(config, world)
    before = {name: p.detach().clone() for name, p in stage.model().named_parameters()}
    engine = make_engine(module, stage.parameter_groups(), config, CPU)
    step_losses(stage, engine)
    engine.step(1e-2)
    for name, parameter in stage.model().named_parameters():
        if name.startswith("frame_encoder.tower.") and name.endswith("k_proj.bias"):
            continue  # attention without positions does not depend on it
        rate = 2e-3 if name.startswith("frame_encoder.tower.") else 1e-2
        change = (parameter.detach() - before[name]).abs().max()
        assert float(change) == pytest.approx(rate, rel=0.05), name


def test_the_encoder_runs_equally_often_everywhere(tmp_path: Path) -> None:
    """Also where a row has no images at all: a layer whose weights are divided needs all ranks."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_image(folder / "a.png", 5, 5, seed=0)
    (folder / "samples.json").write_text(
        json.dumps(
            [
                {"image": "a.png", "conversations": conversation("<image>\nWhat?", "Noise.")},
                {"conversations": conversation("And you?", "I am a model of words.")},
            ]
        )
    )
    base = write_base(tmp_path / "base")
    write_shards(tmp_path / "shards", base, folder / "samples.json", row_tokens=200)
    stage, module = built(settings(), tmp_path)
    rows = VisionShards(str(tmp_path / "shards")).metadata.row_grids
    assert sorted(rows) == [0, 25]
    # As micro-batches of one ring, one after the other, each runs as often as it must.
    counts = sorted(len(batch.inputs["visual"].batches) for batch in stage.micro_batches(0))
    assert counts == [1, 13]
    assert stage._encoder_runs(stage.shards, (0, 1)) == 13
    step_losses(stage, module)
    for name, parameter in stage.model().frame_encoder.named_parameters():
        assert parameter.grad is not None, name


def test_the_result_is_a_longva_checkpoint(world: Path, tmp_path: Path) -> None:
    stage, _ = built(settings(), world)
    weights = {name: tensor + 1 for name, tensor in stage.model().state_dict().items()}
    stage.save(weights, tmp_path / "final")
    register_longva()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "final")
    again, processor = load_longva(tmp_path / "final", dtype=torch.float32)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
        assert torch.equal(model.state_dict()[name], weights[name]), name
    assert processor.grid_size == 56


def test_shards_of_another_model_are_refused(world: Path, tmp_path: Path) -> None:
    stage = AlignmentStage(settings(), base=str(world / "base"), shards=str(world / "shards"))
    stage.check_inputs()
    other, processor = load_longva(world / "base", dtype=torch.float32)
    other.config.grid_rule = "released"
    other.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    stage = AlignmentStage(settings(), base=str(tmp_path / "other"), shards=str(world / "shards"))
    with pytest.raises(ValueError, match="grid_rule 'paper' and not 'released'"):
        stage.check_inputs()
    manifest = tmp_path / "old" / "vision_shards.json"
    manifest.parent.mkdir()
    values = json.loads((world / "shards" / manifest.name).read_text())
    manifest.write_text(json.dumps(values | {"format_version": 1}))
    with pytest.raises(ValueError, match="has format 1, this version reads 2; delete the folder"):
        AlignmentStage(settings(), base=str(world / "base"), shards=str(manifest.parent))
    with pytest.raises(ValueError, match="no folder of vision shards"):
        AlignmentStage(settings(), base=str(world / "base"), shards=str(tmp_path))
    with pytest.raises(ValueError, match="multiple of the number of rings"):
        settings(num_workers=2, ring_size=1, sequences_per_step=3)
