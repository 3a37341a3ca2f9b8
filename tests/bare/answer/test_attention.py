"""Prompts in chunks, answers and single tokens: the same with and without a mask."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longva_ray.answer.attention import NAME, use_cached_attention
from longva_ray.answer.attention_mass import attention_of_answer
from longva_ray.answer.branch import Trunk, branch_cache
from longva_ray.answer.cache import bytes_per_token
from longva_ray.answer.generate import generate_tokens
from longva_ray.answer.prefill import prefill
from longva_ray.answer.score import score_answer
from longva_ray.settings.answering import GenerationSettings

SIZES = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
}


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("chunk", [1, 7, 37, 100])
def test_answers_are_those_of_masked_attention(kind: str, chunk: int) -> None:
    model = build(kind)
    prompt_1TD = torch.randn(1, 37, 48)
    found = []
    for _ in range(2):
        read = prefill(model, prompt_1TD, chunk=chunk)
        scores = [score_answer(model, read, answer) for answer in ([3, 1, 4], [1], [5, 9])]
        tokens = list(generate_tokens(model, read, GenerationSettings(max_new_tokens=9)))
        found.append((read.next_logits_W, [score.logprob for score in scores], tokens))
        use_cached_attention(model)
    assert model.config._attn_implementation == NAME
    (masked, masked_scores, masked_tokens), (bare, bare_scores, bare_tokens) = found
    torch.testing.assert_close(bare, masked)
    assert bare_scores == pytest.approx(masked_scores, abs=1e-4)
    assert bare_tokens == masked_tokens


def test_a_model_with_windows_keeps_its_attention() -> None:
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval()
    before = model.config._attn_implementation
    use_cached_attention(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["bloom", "falcon", "gptj", "mpt", "deepseek_v3", "diffllama"])
def test_a_model_whose_attention_cannot_be_set_keeps_it(kind: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, int] = SIZES | {"n_layer": 2, "n_layers": 2, "n_head": 6, "n_heads": 6}
    sizes |= {"d_model": 48, "n_embd": 48, "rotary_dim": 4, "num_key_value_heads": 6}
    sizes |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    config = AutoConfig.for_model(kind, **sizes, v_head_dim=8, first_k_dense_replace=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    before = model.config._attn_implementation
    assert not use_cached_attention(model)
    assert model.config._attn_implementation == before
    prompt_1TD = torch.randn(1, 37, 48)
    read = prefill(model, prompt_1TD, chunk=7)
    with torch.inference_mode():
        whole = model(inputs_embeds=prompt_1TD).logits[0, -1]
    torch.testing.assert_close(read.next_logits_W, whole)
    assert attention_of_answer(model, read, [3, 1]) is None


@pytest.mark.parametrize("kind", ["qwen2", "gpt_neox", "opt"])
def test_a_trunk_has_as_many_bytes_as_was_said_before_it_is_read(kind: str) -> None:
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    if kind == "qwen2":
        sizes["num_key_value_heads"] = 2
    config = AutoConfig.for_model(kind, **sizes, ffn_dim=64, word_embed_proj_dim=48)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert use_cached_attention(model)
    prompt_1TD = torch.randn(1, 37, 48)
    trunk = Trunk.of(prefill(model, prompt_1TD[:, :30], chunk=7, spare=0).cache)
    assert trunk.num_bytes == 30 * bytes_per_token(model)
    read = prefill(model, prompt_1TD[:, 30:], chunk=3, cache=branch_cache(trunk))
    with torch.inference_mode():
        whole = model(inputs_embeds=prompt_1TD).logits[0, -1]
    torch.testing.assert_close(read.next_logits_W, whole)


def test_padding_is_refused() -> None:
    model = build("qwen2")
    use_cached_attention(model)
    ids = torch.ones(2, 4, dtype=torch.long)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with pytest.raises(ValueError, match="takes no padding"):
        model(input_ids=ids, attention_mask=mask)
