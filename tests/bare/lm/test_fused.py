"""Fused norms and the rotary embedding against what they replace."""

import logging
from collections.abc import Iterator

import pytest
import torch
from memory_measure import LiveBytes
from ring_reference import relative_error
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2
from two_layers import WORDS, tiny

from longva_ray.lm.fused import fuse, fused_norm, rotate
from longva_ray.lm.tiled_mlp import tile_mlps

PLAIN = modeling_qwen2.apply_rotary_pos_emb
FAMILIES = {"qwen2": modeling_qwen2, "llama": modeling_llama}


@pytest.fixture(autouse=True)
def everything_as_it_was() -> Iterator[None]:
    """The rotary embedding is replaced for the whole process, which runs other tests, too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in FAMILIES.values():
            patch.setattr(module, "apply_rotary_pos_emb", module.apply_rotary_pos_emb)
        yield


def test_a_fused_norm_is_a_norm_by_definition() -> None:
    """float64, forward and backward; transformers' own computes in float32."""
    norm = modeling_qwen2.Qwen2RMSNorm(24, eps=1e-5).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 7, 24, dtype=torch.float64, requires_grad=True)
    grad = torch.randn_like(x)
    leaves = (x, norm.weight)
    wanted = norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    got = fused_norm(norm, x)
    assert relative_error(got.detach(), wanted.detach()) <= 1e-13
    got_grads, wanted_grads = (torch.autograd.grad(out, leaves, grad) for out in (got, wanted))
    for g, w in zip(got_grads, wanted_grads, strict=True):
        assert relative_error(g, w) <= 1e-13


def rotary_inputs(tokens: int) -> tuple[torch.Tensor, ...]:
    """q and k as a layer makes them, heads after tokens; cos and sin of which no two are alike."""
    q, k = (
        torch.randn(2, tokens, n, 6, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for n in (14, 2)
    )
    cos, sin = torch.randn(2, 2, tokens, 6, dtype=torch.float64)
    return q, k, cos, sin


@pytest.mark.parametrize("tokens", [1, 9])
def test_a_rotation_is_transformers_rotation(tokens: int) -> None:
    q, k, cos, sin = rotary_inputs(tokens)
    got, wanted = rotate(q, k, cos, sin), PLAIN(q, k, cos, sin)
    grads = [torch.randn_like(t) for t in wanted]
    got_grads, wanted_grads = (torch.autograd.grad(outs, (q, k), grads) for outs in (got, wanted))
    for g, w in zip((*got, *got_grads), (*wanted, *wanted_grads), strict=True):
        assert relative_error(g.detach(), w.detach()) <= 1e-13
    assert all(t.transpose(1, 2).is_contiguous() for t in got), "attention would copy it"
    heads_last = (t.transpose(1, 2) for t in (q, k))
    for g, w in zip(rotate(*heads_last, cos, sin, 2), wanted, strict=True):
        assert relative_error(g.transpose(1, 2).detach(), w.detach()) <= 1e-13


def test_a_rotation_makes_its_result_and_nothing_else() -> None:
    q, k, cos, sin = rotary_inputs(64)
    wanted = (q.numel() + k.numel()) * q.element_size()
    with LiveBytes() as memory:
        memory.ignore((q, k, cos, sin))
        outs = rotate(q, k, cos, sin)
        assert memory.peak == wanted
    grads = [torch.randn_like(t) for t in outs]
    with LiveBytes() as memory:
        memory.ignore((*grads, cos, sin))
        torch.autograd.grad(outs, (q, k), grads)
        assert memory.peak <= wanted


def step(model: PreTrainedModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states and gradients of one pass."""
    ids = torch.randint(WORDS, (2, 11), generator=torch.Generator().manual_seed(0))
    hidden = model.model(input_ids=ids).last_hidden_state
    hidden.pow(2).sum().backward()
    return hidden.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_is_the_model(family: str, caplog: pytest.LogCaptureFixture) -> None:
    """Forward and backward, tiled MLPs beside it; the log says what runs."""
    wanted_hidden, wanted = step(tiny(family))
    model = tiny(family)
    with caplog.at_level(logging.INFO, logger="longva_ray.lm.fused"):
        tile_mlps(model, tile_tokens=4, min_tokens=1)
        fuse(model)
    assert caplog.messages == ["5 norms and the rotary embedding run fused"]
    assert FAMILIES[family].apply_rotary_pos_emb is rotate
    hidden, grads = step(model)
    assert relative_error(hidden, wanted_hidden) <= 1e-5
    assert grads.keys() == wanted.keys()
    assert max(relative_error(grads[name], wanted[name]) for name in wanted) <= 1e-5


def test_other_families_keep_what_they_have(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": WORDS}
    model = MistralForCausalLM(MistralConfig(**settings, **heads))
    with caplog.at_level(logging.INFO, logger="longva_ray.lm.fused"):
        fuse(model)
    assert "MistralForCausalLM keeps its own norms and rotary embedding" in caplog.text
    assert "forward" not in vars(model.model.norm)
