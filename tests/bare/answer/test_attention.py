"""Prompts in chunks, answers and single tokens: the same with and without a mask."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longva_ray.answer.attention import NAME, use_cached_attention
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


def test_padding_is_refused() -> None:
    model = build("qwen2")
    use_cached_attention(model)
    ids = torch.ones(2, 4, dtype=torch.long)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with pytest.raises(ValueError, match="takes no padding"):
        model(input_ids=ids, attention_mask=mask)
