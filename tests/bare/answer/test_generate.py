"""Streaming generation against transformers' own `generate`, and what it does at the edges of an
answer."""

import dataclasses
import itertools

import pytest
import torch
from byte_tokenizer import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from longva_ray.answer.generate import _texts, generate_tokens, stream_answer
from longva_ray.answer.prefill import prefill
from longva_ray.settings.answering import GenerationSettings

TOKENIZER = byte_tokenizer()


@pytest.mark.parametrize("penalty", [1.0, 1.05, 2.0])
def test_greedy_tokens_equal_transformers(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, penalty: float
) -> None:
    language_model.generation_config.repetition_penalty = penalty
    settings = GenerationSettings(max_new_tokens=20)
    prompt = prefill(language_model, prompt_1TD, chunk=16)
    ours = list(generate_tokens(language_model, prompt, settings))
    theirs = language_model.generate(
        inputs_embeds=prompt_1TD, max_new_tokens=20, do_sample=False, repetition_penalty=penalty
    )[0].tolist()
    assert ours == [token for token in theirs if token != 96]
    assert ours, "the model ended immediately, which would compare nothing"


def test_generation_can_be_abandoned_and_repeated(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    settings = GenerationSettings(max_new_tokens=12)
    prompt = prefill(language_model, prompt_1TD, chunk=16)
    whole = list(generate_tokens(language_model, prompt, settings))
    tokens = generate_tokens(language_model, prompt, settings)
    assert list(itertools.islice(tokens, 3)) == whole[:3]
    tokens.close()
    assert prompt.cache.get_seq_length() == 37
    assert list(generate_tokens(language_model, prompt, settings)) == whole


def test_a_seed_makes_sampling_repeatable(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=16)

    def sample(seed: int) -> list[int]:
        settings = GenerationSettings(max_new_tokens=20, temperature=1.0, top_p=0.9, seed=seed)
        return list(generate_tokens(language_model, prompt, settings))

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("temperature", [1e-40, 1e-5])
def test_a_temperature_that_no_logit_can_be_divided_by_is_greedy(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, temperature: float
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=16)
    greedy = GenerationSettings(max_new_tokens=8)
    cold = GenerationSettings(max_new_tokens=8, temperature=temperature, top_p=0.9)
    assert [*generate_tokens(language_model, prompt, cold)] == [
        *generate_tokens(language_model, prompt, greedy)
    ]


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, logit: float, temperature: float
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=16)
    broken_W = prompt.next_logits_W.clone()
    broken_W[5] = logit
    prompt = dataclasses.replace(prompt, next_logits_W=broken_W)
    settings = GenerationSettings(temperature=temperature)
    with pytest.raises(FloatingPointError, match=f"is {logit}"):
        next(generate_tokens(language_model, prompt, settings))


def test_a_checkpoint_that_can_never_end_is_an_error(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    language_model.generation_config.eos_token_id = None
    prompt = prefill(language_model, prompt_1TD, chunk=16)
    with pytest.raises(ValueError, match="eos_token_id"):
        next(generate_tokens(language_model, prompt, GenerationSettings()))


class Scripted(torch.nn.Module):
    """A language model's head that says given bytes, then the end-of-turn token: text handling
    needs known text."""

    END = 258

    def __init__(self, language_model: PreTrainedModel, text: bytes) -> None:
        super().__init__()
        self.generation_config = language_model.generation_config
        self.generation_config.eos_token_id = self.END
        self._says = [*text, self.END]
        self._step = 1

    def first_logits(self) -> torch.Tensor:
        return self._logits(self._says[0])

    def forward(self, **_: object) -> object:
        logits_W = self._logits(self._says[self._step])
        self._step += 1
        return type("Output", (), {"logits": logits_W.view(1, 1, -1)})()

    def _logits(self, token: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(token), 259).float()


def streamed(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, text: bytes, **settings: object
) -> tuple[list[str], str, int]:
    """Pieces, finish reason and number of tokens of a scripted answer."""
    scripted = Scripted(language_model, text)
    prompt = prefill(language_model, prompt_1TD, chunk=64)
    object.__setattr__(prompt, "next_logits_W", scripted.first_logits())
    pieces = list(
        stream_answer(scripted, TOKENIZER, prompt, GenerationSettings(**settings))  # type: ignore[arg-type]
    )
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    last = pieces[-1]
    assert last.finish_reason is not None
    return [piece.text for piece in pieces], last.finish_reason, last.num_tokens


def test_characters_are_never_split(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    text = "a\u00e9\u4e16\U0001f600!"
    pieces, reason, tokens = streamed(language_model, prompt_1TD, text.encode())
    assert pieces[:-1] == list(text)
    assert (reason, tokens) == ("stop", len(text.encode()))


@pytest.mark.parametrize("stop", [("END",), ("zzz", "END"), ("E", "ND")])
def test_text_is_cut_before_a_stop_string(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, stop: tuple[str, ...]
) -> None:
    pieces, reason, _ = streamed(language_model, prompt_1TD, b"one two END three", stop=stop)
    assert "".join(pieces) == "one two "
    assert reason == "stop"


def test_what_only_looked_like_a_stop_string_is_not_lost(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    pieces, reason, _ = streamed(language_model, prompt_1TD, b"an EN at the EN", stop=("END",))
    assert "".join(pieces) == "an EN at the EN"
    assert reason == "stop"


def test_the_token_limit_is_told_from_an_ending(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    pieces, reason, tokens = streamed(language_model, prompt_1TD, b"abcdef", max_new_tokens=4)
    assert ("".join(pieces), reason, tokens) == ("abcd", "length", 4)


def test_a_character_cut_off_by_the_limit_is_not_dropped(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    said = "a\u4e16".encode()
    pieces, reason, tokens = streamed(language_model, prompt_1TD, said, max_new_tokens=3)
    assert ("".join(pieces), reason, tokens) == ("a\ufffd", "length", 3)


@given(st.binary(max_size=40))
def test_text_of_one_token_after_another_equals_that_of_all(said: bytes) -> None:
    """Any bytes: characters of every length, and what is none."""
    texts = [*_texts(TOKENIZER, said)]
    assert "".join(text for _, text in texts) == TOKENIZER.decode(list(said))
    assert texts[-1][0] == len(said)


def test_a_long_answer_is_not_decoded_again_for_every_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, sizes = TOKENIZER.decode, []

    def watched(ids: list[int], **options: bool) -> str:
        sizes.append(len(ids))
        return str(decode(ids, **options))

    monkeypatch.setattr(TOKENIZER, "decode", watched)
    said = "long \u4e16\u754c " * 50
    assert "".join(text for _, text in _texts(TOKENIZER, said.encode())) == said
    assert max(sizes) == 6, "two characters of three bytes"


def test_an_empty_answer_still_ends(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    assert streamed(language_model, prompt_1TD, b"") == ([""], "stop", 0)
