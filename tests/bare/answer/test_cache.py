"""The growing cache against transformers' own: the same bits, whatever is appended and dropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicLayer

from longva_ray.answer import cache as cache_module
from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.cache import BLOCK, RoomyLayer, make_room, roomy_cache
from longva_ray.answer.generate import generate_tokens
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.score import score_answer
from longva_ray.settings.answering import GenerationSettings


def states(tokens: int, seed: int) -> torch.Tensor:
    """Keys or values BMTH."""
    return torch.randn(1, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(0, 9),
    st.lists(st.tuples(st.booleans(), st.integers(1, 7)), min_size=1, max_size=12),
)
def test_any_order_of_appending_and_dropping_gives_the_same_tensors(
    room: int, steps: list[tuple[bool, int]]
) -> None:
    roomy, plain = RoomyLayer(), DynamicLayer()
    roomy.room = room
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "BLOCK", 4)
        for number, (drops, tokens) in enumerate(steps):
            held = plain.get_seq_length()
            if drops and held:
                for layer in (roomy, plain):
                    layer.crop(-min(tokens, held))
            else:
                new = states(tokens, number), states(tokens, -number - 1)
                for ours, theirs in zip(roomy.update(*new), plain.update(*new), strict=True):
                    assert torch.equal(ours, theirs)
            assert roomy.get_seq_length() == plain.get_seq_length()


def test_what_fits_is_appended_in_place_and_a_full_buffer_is_copied_once_a_block() -> None:
    layer = RoomyLayer()
    layer.room = 2 * BLOCK
    places = []
    for tokens in (BLOCK, BLOCK - 3, 3, 1, 1, BLOCK - 2):
        keys, _ = layer.update(states(tokens, 0), states(tokens, 1))
        places.append(keys.data_ptr())
    first, second = dict.fromkeys(places)
    assert places == [first] * 3 + [second] * 3


def test_tensors_put_in_place_of_the_views_are_noticed() -> None:
    layer = RoomyLayer()
    layer.update(states(3, 0), states(3, 1))
    layer.batch_repeat_interleave(2)
    with pytest.raises(AssertionError):
        layer.update(states(1, 2), states(1, 3))


def test_layers_with_a_window_stay_as_they_are() -> None:
    shape = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"vocab_size": 9, "intermediate_size": 8, "num_hidden_layers": 2}
    config = Qwen2Config(**shape, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    kinds = [type(layer) for layer in roomy_cache(Qwen2ForCausalLM(config)).layers]
    assert kinds[0] is RoomyLayer
    assert kinds[1] is not RoomyLayer


@pytest.mark.parametrize("attention", ["transformers'", "ours"])
def test_answers_are_those_of_transformers_cache(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, attention: str
) -> None:
    if attention == "ours":
        use_cached_attention(language_model)
    settings = GenerationSettings(max_new_tokens=30)
    answer = [5, 17, 3]
    told: list[Any] = []
    for cache in (None, DynamicCache(config=language_model.config)):
        prompt: Prefill = prefill(language_model, prompt_1TD, chunk=8, cache=cache)
        score = score_answer(language_model, prompt, answer)
        told.append((score, list(generate_tokens(language_model, prompt, settings))))
    assert told[0] == told[1]


def test_a_rewound_prompt_answers_as_before(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    """A second answer overwrites the first in the same buffer."""
    prompt = prefill(language_model, prompt_1TD, chunk=8)
    first = score_answer(language_model, prompt, [5, 17, 3])
    score_answer(language_model, prompt, [60, 2, 95])
    assert score_answer(language_model, prompt, [5, 17, 3]) == first


def test_room_is_made_for_all_layers(language_model: PreTrainedModel) -> None:
    cache = roomy_cache(language_model)
    make_room(cache, 40)
    assert [layer.room for layer in cache.layers] == [40, 40]  # type: ignore[attr-defined]
