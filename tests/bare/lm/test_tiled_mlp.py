"""Tiled MLPs: same loss and gradients, small intermediates, one gradient a backward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from longva_ray.lm.tiled_mlp import num_tiles, tile_mlps

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


IDS = torch.arange(2 * 30).reshape(2, 30) % 64


@pytest.fixture(params=[Qwen2Config, LlamaConfig], ids=["qwen2", "llama"])
def make_model(request: pytest.FixtureRequest) -> Callable[[], PreTrainedModel]:
    """The same float64 weights at every call."""

    def make() -> PreTrainedModel:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(request.param(**SHAPE)).double().train()

    return make


def loss_and_gradients(model: PreTrainedModel) -> list[torch.Tensor]:
    loss = model(IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("tile_tokens", [1, 7, 30])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_loss_and_gradients_do_not_change(
    make_model: Callable[[], PreTrainedModel], tile_tokens: int, checkpointed: bool
) -> None:
    wanted = loss_and_gradients(make_model())
    model = make_model()
    tile_mlps(model, tile_tokens=5, min_tokens=1)  # a second call replaces the first
    tile_mlps(model, tile_tokens=tile_tokens, min_tokens=1)
    if checkpointed:
        model.activation_checkpointing_enable()
    for got, want in zip(loss_and_gradients(model), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def widest_intermediate(model: PreTrainedModel) -> int:
    """Most rows that an activation function of width I is applied to in a training step."""
    rows: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.SiLU) or type(module).__name__ == "SiLUActivation":
            module.register_forward_hook(lambda _, __, out: rows.append(out.shape[-2]))
    loss_and_gradients(model)
    assert rows
    return max(rows)


def test_intermediates_are_as_small_as_asked_and_only_from_the_length_on(
    make_model: Callable[[], PreTrainedModel],
) -> None:
    model = make_model()
    tile_mlps(model, tile_tokens=7, min_tokens=30)
    assert widest_intermediate(model) == 6  # 30 tokens in ceil(30 / 7) equal tiles
    tile_mlps(model, tile_tokens=7, min_tokens=31)
    assert widest_intermediate(model) == 30


def test_a_parameter_gets_its_gradient_once(make_model: Callable[[], PreTrainedModel]) -> None:
    """What DDP, FSDP and DeepSpeed hang their reductions on."""
    model = make_model()
    tile_mlps(model, tile_tokens=7, min_tokens=1)
    model.activation_checkpointing_enable()
    fired: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: fired.append(name))
    loss_and_gradients(model)
    assert sorted(fired) == sorted(name for name, _ in model.named_parameters())


def test_the_number_of_tiles_depends_on_the_length_alone() -> None:
    assert num_tiles(65_535, tile_tokens=8_192, min_tokens=65_536) == 1
    assert num_tiles(65_536, tile_tokens=8_192, min_tokens=65_536) == 8
    assert num_tiles(65_538, tile_tokens=8_192, min_tokens=65_536) == 9


def test_mistakes(make_model: Callable[[], PreTrainedModel]) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        tile_mlps(make_model(), tile_tokens=0)
    config: PreTrainedConfig = MixtralConfig(**SHAPE, num_local_experts=2)
    with pytest.raises(ValueError, match="gated MLP"):
        tile_mlps(AutoModelForCausalLM.from_config(config))
