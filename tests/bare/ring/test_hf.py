"""What the ring cannot compute for a model is an error."""

import pytest
import torch
from transformers import DynamicCache
from two_layers import WORDS, tiny

from longva_ray.ring.attention import Ring
from longva_ray.ring.hf import NAME, register, ring_inputs
from longva_ray.ring.layout import ZigzagLayout


@pytest.fixture
def ring() -> Ring:
    register()
    return Ring(layout=ZigzagLayout(document_lengths=(8,), world_size=1))


IDS = torch.arange(8)[None]


def test_a_built_in_implementation_never_gets_a_share(ring: Ring) -> None:
    model = tiny("qwen2", "sdpa")
    with pytest.raises(ValueError, match=r"is 'sdpa', which would compute something else"):
        ring_inputs(model, ring)
    model.set_attn_implementation(NAME)
    assert model(IDS, **ring_inputs(model, ring)).logits.shape == (1, 8, WORDS)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"is 'eager'"):
        ring_inputs(model, ring)


def test_the_ring_must_be_named(ring: Ring) -> None:
    with pytest.raises(ValueError, match="ring_inputs"):
        tiny("qwen2", NAME)(IDS, use_cache=False)


@pytest.mark.parametrize("positions", [None, IDS + 1, IDS[:, :1]], ids=["none", "shifted", "one"])
def test_wrong_positions_are_refused(positions: torch.Tensor | None) -> None:
    register()
    ring = Ring(layout=ZigzagLayout(document_lengths=(3, 5), world_size=1))
    model = tiny("llama", NAME)
    with pytest.raises(ValueError, match="position_ids"):
        model(IDS, position_ids=positions, ring=ring, use_cache=False)


def test_equal_positions_in_another_tensor_are_accepted(ring: Ring) -> None:
    model = tiny("llama", NAME)
    inputs = ring_inputs(model, ring)
    moved = inputs | {"position_ids": inputs["position_ids"].clone()}
    assert torch.equal(model(IDS, **moved).logits, model(IDS, **inputs).logits)


def test_masks_that_hide_are_refused_and_masks_of_ones_pass(ring: Ring) -> None:
    model = tiny("qwen2", NAME)
    inputs = ring_inputs(model, ring)
    ones = torch.ones(1, 8, dtype=torch.long)
    assert torch.equal(
        model(IDS, attention_mask=ones, **inputs).logits, model(IDS, **inputs).logits
    )
    padded = ones.clone()
    padded[:, -1] = 0
    with pytest.raises(ValueError, match="takes no padding mask"):
        model(IDS, attention_mask=padded, **inputs)
    prepared = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"cannot honour \['attention_mask'\]"):
        model(IDS, attention_mask=prepared, **inputs)


def test_a_model_that_is_not_causal_is_refused(ring: Ring) -> None:
    model = tiny("llama", NAME, is_causal=False)
    with pytest.raises(ValueError, match="shows tokens their successors"):
        model(IDS, **ring_inputs(model, ring))
    model = tiny("llama", NAME)
    with pytest.raises(ValueError, match="shows tokens their successors"):
        model(IDS, is_causal=False, **ring_inputs(model, ring))
    model.model.layers[0].self_attn.is_causal = False
    with pytest.raises(ValueError, match=r"cannot honour \['is_causal=False'\]"):
        model(IDS, **ring_inputs(model, ring))


def test_dropout_windows_and_caches_are_refused(ring: Ring) -> None:
    model = tiny("qwen2", NAME, attention_dropout=0.1)
    with pytest.raises(ValueError, match=r"cannot honour \['dropout'\]"):
        model(IDS, **ring_inputs(model, ring))
    assert model.eval()(IDS, **ring_inputs(model, ring)).logits.isfinite().all()
    model = tiny("qwen2", NAME, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    with pytest.raises(ValueError, match=r"cannot honour \['sliding_window'\]"):
        model(IDS, **ring_inputs(model, ring))
    model = tiny("qwen2", NAME).eval()
    cache = DynamicCache(config=model.config)
    inputs = ring_inputs(model, ring)
    model(IDS, past_key_values=cache, **inputs)
    with pytest.raises(ValueError, match="no KV cache: 8 queries but 16 keys"):
        model(IDS, past_key_values=cache, **inputs)


@pytest.mark.parametrize("keyword", ["softcap", "s_aux", "position_bias", "cu_seq_lens_q"])
def test_other_attention_requests_are_refused(ring: Ring, keyword: str) -> None:
    model = tiny("qwen2", NAME)
    with pytest.raises(ValueError, match=f"cannot honour .'{keyword}'"):
        model(IDS, **ring_inputs(model, ring), **{keyword: torch.ones(1)})


def test_output_attentions_are_refused(ring: Ring) -> None:
    model = tiny("qwen2", NAME)
    with pytest.raises(ValueError, match="output_attentions"):
        model(IDS, **ring_inputs(model, ring), output_attentions=True)
