"""The plan against measured training steps of a small model, and against what must hold."""

import dataclasses
from typing import Any

import pytest
import torch
from memory_measure import LiveBytes, measured_activations
from transformers import LlamaConfig, Qwen2Config

from longva_ray.planner.activations import KERNEL_SUMS, activation_terms
from longva_ray.planner.memory import GIB, Budget, longest, peak, terms
from longva_ray.planner.setup import ModelShape, Setup
from longva_ray.planner.term import Term
from longva_ray.settings.training import TrainConfig

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


LENGTHS = (128, 384)


TOLERANCE = 0.05
"""Of the bytes a further token takes, measured against planned."""


def train_config(**changes: Any) -> TrainConfig:
    plain = {"zero_stage": 0, "offload": False, "dtype": "float32", "offload_activations": False}
    plain["gpus_per_worker"] = 0
    return TrainConfig(**(plain | changes))


def countable(setup: Setup, tokens: int) -> list[Term]:
    return [term for term in activation_terms(setup, tokens) if term.name != KERNEL_SUMS]


def make_setup(config: Any, **changes: Any) -> Setup:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    train = {name: value for name, value in changes.items() if name in fields}
    rest = {name: value for name, value in changes.items() if name not in fields}
    shape = ModelShape.of(config)
    return Setup(model=shape, gpus=1, ring_size=1, train=train_config(**train), **rest)


CASES = {
    "as it is": ({}, {}),
    "large MLP": ({"intermediate_size": 1280}, {}),
    "small MLP": ({"intermediate_size": 64}, {}),
    "many heads": ({"head_dim": 128, "intermediate_size": 64}, {}),
    "many key heads": ({"head_dim": 64, "num_key_value_heads": 4, "intermediate_size": 64}, {}),
    "more layers": ({"num_hidden_layers": 8}, {}),
    "ring not kept": ({}, {"keep_ring": False}),
    "not checkpointed": ({}, {"checkpoint_activations": False}),
    "tiled MLP": (
        {"intermediate_size": 1280},
        {"tile_mlps": True, "tile_tokens": 64, "tile_from": 1},
    ),
    "large vocabulary": ({"vocab_size": 4096}, {}),
    "plain loss": ({"vocab_size": 4096}, {"tiled_loss": False}),
    "neither checkpoints nor tiles": (
        {"vocab_size": 4096},
        {"checkpoint_activations": False, "tiled_loss": False},
    ),
    "bfloat16": ({}, {"dtype": "bfloat16", "zero_stage": 1}),
    "bfloat16, small MLP": ({"intermediate_size": 64}, {"dtype": "bfloat16", "zero_stage": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_planned_bytes_a_token_are_measured_bytes_a_token(case: str) -> None:
    """On a CPU, with the norms of transformers."""
    shape, switches = CASES[case]
    check(Qwen2Config(**(SHAPE | shape)), switches | {"fused": False}, LENGTHS, "cpu")


GPU_SHAPE = SHAPE | {"hidden_size": 256, "intermediate_size": 1280}

GPU_LENGTHS = (16_384, 65_536)

ON_A_GPU = {
    "as it is": ({}, {}),
    "small MLP": ({"intermediate_size": 64}, {}),
    "many heads": ({"head_dim": 128, "intermediate_size": 64}, {}),
    "many key heads": ({"head_dim": 128, "num_key_value_heads": 4, "intermediate_size": 64}, {}),
    "ring not kept": ({}, {"keep_ring": False}),
    "not checkpointed": ({}, {"checkpoint_activations": False}),
    "tiled MLP": ({}, {"tile_mlps": True}),
    "large vocabulary": ({"vocab_size": 65_536, "intermediate_size": 64}, {}),
    "not fused": ({}, {"fused": False, "tile_mlps": True}),
}


@pytest.mark.parametrize("case", ON_A_GPU)
def test_planned_bytes_a_token_are_those_of_a_gpu(case: str) -> None:
    """Tensors without content, in the shapes that the operators of a GPU give them."""
    shape, switches = ON_A_GPU[case]
    low = {"dtype": "bfloat16", "zero_stage": 1, "tile_from": 1}
    check(Qwen2Config(**(GPU_SHAPE | shape)), low | switches, GPU_LENGTHS, "meta")


def test_a_million_tokens_of_the_papers_model_on_one_gpu() -> None:
    """Two layers of it; the others keep as much as these do."""
    from longva_ray.lm.longva_config import LongVAConfig

    config = LongVAConfig().text
    config.num_hidden_layers = 2
    switches = {"dtype": "bfloat16", "zero_stage": 1, "tile_mlps": True}
    check(config, switches, (524_288, 1_048_576), "meta")


def check(config: Any, switches: dict[str, Any], lengths: tuple[int, int], device: str) -> None:
    setup = make_setup(config, **switches)
    measured = [measured_activations(setup, config, length, device=device) for length in lengths]
    planned = [peak(countable(setup, length))[0] for length in lengths]
    span = lengths[1] - lengths[0]
    slopes = ((measured[1] - measured[0]) / span, (planned[1] - planned[0]) / span)
    report = (
        f"measured {slopes[0]:.0f}, planned {slopes[1]:.0f} bytes a token; {measured} {planned}"
    )
    assert slopes[1] == pytest.approx(slopes[0], rel=TOLERANCE), report
    assert planned[1] == pytest.approx(measured[1], rel=0.15), report


def test_live_bytes_counts_each_storage_once_and_while_it_lives() -> None:
    with LiveBytes() as memory:
        x = torch.zeros(1024)
        y = x.view(32, 32).t()
        assert memory.live == 4096
        z = torch.ones(256)
        del x, z
        assert memory.live == 4096
        del y
    assert (memory.live, memory.peak) == (0, 5120)


@pytest.fixture(scope="module")
def qwen2_7b() -> Setup:
    """The paper's model and machine."""
    from longva_ray.lm.longva_config import LongVAConfig

    model = ModelShape.of(LongVAConfig().text)
    return Setup(model=model, gpus=8, ring_size=8, train=TrainConfig())


def test_parameters_are_counted_without_storage(qwen2_7b: Setup) -> None:
    assert qwen2_7b.model.parameters == 7_615_616_512  # the size of Qwen2-7B's checkpoint
    llama = LlamaConfig(**SHAPE, head_dim=16)
    assert ModelShape.of(llama).query_width == 64


def test_states_follow_zero(qwen2_7b: Setup) -> None:
    """16 bytes a parameter in all, 18 with gradients in float32 on the host."""
    count = qwen2_7b.model.parameters
    for stage, held in {1: 2 + 2 + 12 / 8, 2: 2 + 2 / 8 + 12 / 8, 3: 16 / 8}.items():
        train = TrainConfig(zero_stage=stage, offload=False)  # type: ignore[arg-type]
        found = terms(dataclasses.replace(qwen2_7b, train=train), 1)[:3]
        assert sum(t.gpu for t in found) == pytest.approx(held * count)
        assert sum(t.host for t in found) == 0
    states = terms(qwen2_7b, 1)[:3]
    assert [t.gpu for t in states] == [0, 0, 0]
    assert sum(t.host for t in states) == pytest.approx(18 * count / 8)


def test_longest_is_where_it_stops_fitting(qwen2_7b: Setup) -> None:
    for host in (None, 64 * GIB):
        budget = Budget(gpu=80 * GIB, host=host)
        tokens = longest(qwen2_7b, budget)
        assert tokens > 224_000  # the paper's length fits
        assert budget.holds(terms(qwen2_7b, tokens // 8))
        assert not budget.holds(terms(qwen2_7b, tokens // 8 + 1))
    assert longest(qwen2_7b, Budget(gpu=4 * GIB)) == 0


def test_the_vocabulary_is_the_limit_without_the_tiled_loss(qwen2_7b: Setup) -> None:
    """Footnote 1 of the paper: 224K was the most that fitted."""
    plain = dataclasses.replace(qwen2_7b, tiled_loss=False)
    assert 200_000 < longest(plain, Budget(gpu=80 * GIB)) < 350_000


def test_a_ring_that_does_not_divide_the_gpus_is_refused(qwen2_7b: Setup) -> None:
    with pytest.raises(ValueError, match="ring_size 3 and 8 GPUs"):
        dataclasses.replace(qwen2_7b, ring_size=3)
