"""Prompts that share beginnings, read one after the other, against a fresh prefill of each."""

import pytest
import torch
from transformers import PreTrainedModel

from longva_ray.answer.prefill import prefill
from longva_ray.answer.prefix import PrefixReader
from longva_ray.answer.score import score_answer

CHUNK = 8


@pytest.fixture
def haystack_1TD() -> torch.Tensor:
    return torch.randn(1, 90, 32, generator=torch.Generator().manual_seed(2))


def with_needle(haystack_1TD: torch.Tensor, place: int, length: int, seed: int) -> torch.Tensor:
    needle_1TD = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(seed))
    parts = [haystack_1TD[:, :place], needle_1TD, haystack_1TD[:, place:length]]
    return torch.cat(parts, dim=1)


def test_results_equal_a_fresh_prefill_bit_for_bit(
    language_model: PreTrainedModel, haystack_1TD: torch.Tensor
) -> None:
    reader = PrefixReader(language_model, chunk=CHUNK)
    # Deeper and shallower needles, other needles, other lengths, the same prompt twice, and back.
    for place, length, seed in [
        (90, 90, 5),
        (60, 90, 5),
        (60, 90, 6),
        (60, 70, 6),
        (60, 70, 6),
        (0, 90, 6),
        (80, 85, 7),
    ]:
        prompt_1TD = with_needle(haystack_1TD, place, length, seed)
        got = reader.read(prompt_1TD)
        wanted = prefill(language_model, prompt_1TD, chunk=CHUNK)
        assert torch.equal(got.next_logits_W, wanted.next_logits_W), (place, length)
        assert got.length == got.cache.get_seq_length() == length + 3
        for ours, fresh in zip(got.cache.layers, wanted.cache.layers, strict=True):
            assert torch.equal(ours.keys, fresh.keys)
            assert torch.equal(ours.values, fresh.values)
        # Reading on from the result must not disturb the next prompt.
        assert score_answer(language_model, got, [4, 7]) == score_answer(
            language_model, wanted, [4, 7]
        )


def test_only_what_stands_behind_the_first_difference_is_computed(
    language_model: PreTrainedModel, haystack_1TD: torch.Tensor
) -> None:
    computed: list[int] = []

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        computed.append(kwargs["inputs_embeds"].shape[1])

    hook = language_model.register_forward_pre_hook(count, with_kwargs=True)
    reader = PrefixReader(language_model, chunk=CHUNK)
    reader.read(with_needle(haystack_1TD, 80, 90, 5))
    assert sum(computed) == 93
    computed.clear()
    reader.read(with_needle(haystack_1TD, 43, 90, 5))
    assert sum(computed) == 93 - 40  # 43 tokens are shared, and 40 of them are whole chunks
    computed.clear()
    reader.read(with_needle(haystack_1TD, 43, 90, 5))
    assert sum(computed) == 93 - 88  # all of it is known, but the last token's logits are wanted
    hook.remove()
    assert (reader.tokens_read, reader.tokens_reused) == (3 * 93, 40 + 88)


def test_a_failed_prompt_leaves_nothing_behind(
    language_model: PreTrainedModel, haystack_1TD: torch.Tensor
) -> None:
    reader = PrefixReader(language_model, chunk=CHUNK)
    reader.read(haystack_1TD)

    def out_of_memory(module: object, inputs: object) -> None:
        raise torch.OutOfMemoryError("while the cache is half filled")

    hook = language_model.lm_head.register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        reader.read(with_needle(haystack_1TD, 50, 90, 5))
    hook.remove()
    got = reader.read(haystack_1TD[:, :60])
    wanted = prefill(language_model, haystack_1TD[:, :60], chunk=CHUNK)
    assert torch.equal(got.next_logits_W, wanted.next_logits_W)
