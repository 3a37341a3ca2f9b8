"""The preference stage: plain transformers' losses and gradients, whatever is divided; a run that
learns, measures what is held out, and goes on."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from local_link import train_locally
from preference_world import plain_logprobs, settings, write_preferences, write_world
from vision_world import gradients
from worker_pool import WorkerPool

from longva_ray.data.images.chat import read_samples
from longva_ray.data.preferences.shards import (
    PreferenceShardError,
    PreferenceShards,
)
from longva_ray.lm.load import load_longva
from longva_ray.ring.mesh import make_mesh
from longva_ray.settings.training import PreferConfig
from longva_ray.train.stages.preference import PreferenceStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs that are trained on, one that is not, and models that are no longer the reference:
    "policy" has another language model, "seeing" another tower and projector too."""
    folder = write_world(tmp_path_factory.mktemp("preferences"), held_out=1, pixels=True)
    model, processor = load_longva(folder / "base", dtype=torch.float32)
    torch.manual_seed(0)
    for name, part in {"policy": model.language_model, "seeing": model.frame_encoder}.items():
        for parameter in part.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def built(
    config: PreferConfig, world: Path, weights: str = "seeing"
) -> tuple[PreferenceStage, torch.nn.Module]:
    """A stage that began with the reference, and has become another model."""
    stage = PreferenceStage(config, base=str(world / "base"), shards=str(world / "shards"))
    stage.check_inputs()
    module = stage.build(make_mesh(ring_size=config.ring_size), CPU)
    later, _ = load_longva(world / weights, dtype=torch.float32)
    stage.model().load_state_dict(later.state_dict())
    return stage, module


def plain_step(world: Path, config: PreferConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of all four pairs as one step, with the formulas written out."""
    model, reference = (
        load_longva(world / name, dtype=torch.float32, attn_implementation="sdpa")[0]
        for name in ("seeing", "base")
    )
    losses = []
    for row in PreferenceShards(world / "shards"):
        from_pixels = config.train == "all"
        chosen, rejected = plain_logprobs(world, model, row, from_pixels=from_pixels)
        with torch.no_grad():
            before = plain_logprobs(world, reference, row)
        ratios = [chosen - before[0], rejected - before[1]]
        if config.loss == "ipo":
            better, worse = (r / n for r, n in zip(ratios, row.answer_lengths, strict=True))
            loss = (better - worse - 1 / (2 * config.beta)) ** 2
        else:
            loss = -torch.log(torch.sigmoid(config.beta * (ratios[0] - ratios[1])))
        losses.append(loss - config.sft_weight * chosen / row.answer_lengths[0])
    mean = torch.stack(losses).mean()
    mean.backward()
    return float(mean.detach()), gradients(model)


def step_loss(stage: PreferenceStage, module: torch.nn.Module) -> float:
    """Loss of the first step, after its backward pass; gradients are averaged over all ranks."""
    batches = stage.micro_batches(0)
    pairs = torch.tensor(sum(batch.num_labels for batch in batches))
    if dist.is_initialized():
        dist.all_reduce(pairs)
    assert int(pairs) == 4
    total = 0.0
    for batch in batches:
        loss = module(**batch.inputs, denominator=int(pairs))
        loss.backward()
        total += float(loss.detach())
    return total


Found = tuple[float, dict[str, torch.Tensor], dict[str, float]]


def divided(
    group: dist.ProcessGroup | None, world: Path, ring_size: int, kinds: Sequence[dict[str, Any]]
) -> list[Found]:
    """Job: loss, gradients and measures of one step as one of the ranks, for each kind of loss."""
    ranks = 1 if group is None else dist.get_world_size(group)
    results = []
    for kind in kinds:
        config = settings(num_workers=ranks, ring_size=ring_size, **kind)
        stage, module = built(config, world)
        loss = step_loss(stage, module)
        found = gradients(stage.model())
        for gradient in found.values() if group else ():
            dist.all_reduce(gradient, group=group)
            gradient /= ranks
        results.append((loss, found, stage.measured()))
    return results


KINDS: list[dict[str, Any]] = [
    {"loss": "sigmoid", "beta": 0.5},
    {"loss": "ipo", "beta": 0.2, "sft_weight": 0.3, "checkpoint_activations": True},
    {"reference": "live", "beta": 0.5, "checkpoint_activations": True},
    {"train": "all", "beta": 0.5, "grids_per_forward": 2},
    {"train": "all", "beta": 0.5, "reference": "live", "checkpoint_activations": True},
]


def test_a_frozen_tower_learns_nothing(world: Path) -> None:
    stage, module = built(settings(train="all", vision_learning_rate=0), world)
    step_loss(stage, module)
    encoder = stage.model().frame_encoder
    assert all(p.grad is None for p in encoder.tower.parameters())
    assert all(p.grad is not None for p in encoder.projector.parameters())
    assert [len(group["params"]) for group in stage.parameter_groups()][1:] == [
        len(list(encoder.projector.parameters()))
    ]


@pytest.mark.parametrize("ring_size", [4, 2, 1, None], ids=["4", "2x2", "1x4", "alone"])
def test_every_mesh_has_plain_losses_and_gradients(
    pool: WorkerPool, world: Path, ring_size: int | None
) -> None:
    """Four pairs on one ring of four, two rings of two, four alone, and one process."""
    if ring_size is None:
        ranks = [divided(None, world, 1, KINDS)]
    else:
        ranks = pool.run(divided, 4, world, ring_size, KINDS)
    for number, kind in enumerate(KINDS):
        expected, expected_gradients = plain_step(world, settings(**kind))
        for results in ranks:
            loss, found, measures = results[number]
            assert loss == pytest.approx(expected, rel=1e-5)
            assert measures.keys() == {"accuracy", "margin", "chosen_reward", "rejected_reward"}
            assert measures == pytest.approx(ranks[0][number][2], rel=1e-9)
            for name, gradient in expected_gradients.items():
                if kind.get("train") != "all" and not name.startswith("language_model."):
                    gradient = torch.zeros_like(gradient)
                torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_the_reference_itself_prefers_nothing(world: Path) -> None:
    """Log-probabilities of the stage are those of the engine that wrote the shards."""
    stage, module = built(settings(), world, "base")
    assert step_loss(stage, module) == pytest.approx(math.log(2), abs=1e-5)
    measures = stage.measured()
    assert measures["margin"] == pytest.approx(0, abs=1e-4)
    assert measures["chosen_reward"] == pytest.approx(0, abs=1e-4)


def stage_of(world: Path, base: str, shards: str = "shards", **changes: Any) -> PreferenceStage:
    store = changes.pop("store", None)
    return PreferenceStage(
        settings(**changes), base=str(world / base), shards=str(world / shards), store=store
    )


def test_another_model_than_the_reference_is_refused(world: Path) -> None:
    with pytest.raises(PreferenceShardError, match=r"not those of .*policy.*reference live"):
        stage_of(world, "policy").check_inputs()
    stage_of(world, "base").check_inputs()
    stage_of(world, "policy", reference="live").check_inputs()
    with pytest.raises(PreferenceShardError, match="another vision tower or projector"):
        stage_of(world, "seeing", reference="live").check_inputs()
    elsewhere = str(world / "no")
    with pytest.raises(PreferenceShardError, match=r"not in the shard store .*--store"):
        stage_of(world, "base", store=elsewhere).check_inputs()
    # Who encodes the pixels anew and knows the log-probabilities reads no store.
    stage_of(world, "base", train="all", store=elsewhere).check_inputs()


def test_shards_have_to_hold_what_training_reads(world: Path) -> None:
    samples = read_samples([str(world / "pairs.jsonl")], image_folder=None, seed=0)
    write_preferences(world, samples[:2], inside="bare", live=True)
    with pytest.raises(PreferenceShardError, match=r"no log-probabilities.*reference live"):
        stage_of(world, "base", "bare").check_inputs()
    with pytest.raises(PreferenceShardError, match=r"no pixels.*--preferences.pixels"):
        stage_of(world, "base", "bare", reference="live", train="all").check_inputs()
    stage_of(world, "policy", "bare", reference="live").check_inputs()


def prefer(
    group: dist.ProcessGroup | None,
    world: Path,
    name: str,
    changes: dict[str, Any],
    stop_at: int | None = None,
) -> tuple[dict[int, float], dict[int, dict[str, float]]]:
    """Job: train from the reference; the losses and the measures that rank 0 recorded."""
    stage = PreferenceStage(
        settings(**changes), base=str(world / "base"), shards=str(world / "shards")
    )
    outcome, link = train_locally(stage, stage.config, world / name, stop_at=stop_at)
    assert outcome.status == ("stopped" if stop_at else "finished"), outcome.message
    told = {
        step: {**record.measured, **{f"held out {name}": v for name, v in record.held_out.items()}}
        for step, record in link.records.items()
    }
    return link.losses, told


def test_divided_weights_train_as_whole_ones(pool: WorkerPool, world: Path) -> None:
    """Two rings of two under ZeRO-3 with offload, which stop and go on, against one process: all
    weights, with a reference beside them. Three pairs are held out, so that one ring measures a
    pair that does not count."""
    pytest.importorskip("deepspeed")
    write_world(world / "three", held_out=3, pixels=True)
    rates = {"sequences_per_step": 2, "steps": 3, "beta": 0.5, "validate_every": 2}
    rates |= {"train": "all", "reference": "live", "learning_rate": 3e-3, "grids_per_forward": 4}
    zero = {"zero_stage": 3, "offload": True, "checkpoint_activations": True}
    changes = rates | zero | {"num_workers": 4, "ring_size": 2}
    (first, _), *_ = pool.run(prefer, 4, world / "three", "divided", changes, 2)
    (rest, measured), *_ = pool.run(prefer, 4, world / "three", "divided", changes)
    losses, expected = prefer(None, world / "three", "alone", rates)
    assert (list(first), list(rest)) == ([1, 2], [3])
    assert {**first, **rest} == pytest.approx(losses, abs=1e-4)
    assert measured[3] == pytest.approx(expected[3], abs=1e-3)
    assert {"held out loss", "held out margin", "held out accuracy"} < measured[3].keys()
    before, after, alone = (
        load_longva(place, dtype=torch.float32)[0].state_dict()
        for place in (
            world / "three" / "base",
            world / "three" / "divided" / "final",
            world / "three" / "alone" / "final",
        )
    )
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-2, atol=2e-3, msg=name)
        assert not torch.equal(tensor, before[name]), name


def test_margins_rise_and_pairs_are_ordered(world: Path) -> None:
    _, measured = prefer(None, world, "learns", {"steps": 12, "learning_rate": 3e-3, "beta": 0.5})
    assert measured[12]["accuracy"] == 1
    assert measured[12]["margin"] > measured[6]["margin"] > measured[1]["margin"]
