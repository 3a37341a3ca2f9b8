"""Chunked prefill and teacher-forced scores against one plain forward pass over everything."""

import threading

import pytest
import torch
from transformers import PreTrainedModel

from longva_ray.answer import score
from longva_ray.answer.prefill import prefill
from longva_ray.answer.score import best_option, score_answer

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 1000])
def test_prefill_in_chunks_equals_one_forward_pass(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, chunk: int
) -> None:
    result = prefill(language_model, prompt_1TD, chunk=chunk)
    with torch.inference_mode():
        reference = language_model(inputs_embeds=prompt_1TD).logits[0, -1]
    torch.testing.assert_close(result.next_logits_W, reference, **TOLERANCE)
    assert result.length == result.cache.get_seq_length() == 37


@pytest.mark.parametrize("shape", [(1, 0, 32), (2, 5, 32)])
def test_prefill_refuses_what_is_not_one_prompt(
    language_model: PreTrainedModel, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match=rf"batch {shape[0]} of length {shape[1]}"):
        prefill(language_model, torch.zeros(shape), chunk=4)


def test_an_unwanted_prefill_ends_at_the_next_chunk(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    unwanted = threading.Event()
    chunks = []

    def hang_up(*_: object) -> None:
        chunks.append(1)
        if len(chunks) == 2:
            unwanted.set()

    hook = language_model.register_forward_pre_hook(hang_up)
    with pytest.raises(InterruptedError):
        prefill(language_model, prompt_1TD, chunk=5, unwanted=unwanted)
    hook.remove()
    assert len(chunks) == 2


def plain_logprobs(
    model: PreTrainedModel, prompt_1TD: torch.Tensor, answer: list[int]
) -> torch.Tensor:
    """Log-probabilities SW at the answer's places, from one forward pass without a cache."""
    answer_1SD = model.get_input_embeddings()(torch.tensor([answer]))
    with torch.inference_mode():
        logits = model(inputs_embeds=torch.cat([prompt_1TD, answer_1SD], dim=1)).logits[0]
    start = prompt_1TD.shape[1] - 1
    return logits[start : start + len(answer)].log_softmax(-1)


@pytest.mark.parametrize("answer", [[5], [5, 17], [3, 3, 3, 60, 2, 95]])
def test_score_equals_a_plain_forward_pass(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor, answer: list[int]
) -> None:
    scored = score_answer(language_model, prefill(language_model, prompt_1TD, chunk=8), answer)
    reference_SW = plain_logprobs(language_model, prompt_1TD, answer)
    expected = reference_SW[torch.arange(len(answer)), torch.tensor(answer)]
    torch.testing.assert_close(torch.tensor(scored.token_logprobs), expected, **TOLERANCE)
    assert scored.logprob == pytest.approx(float(expected.sum()), abs=1e-4)
    assert scored.predicted_ids == tuple(reference_SW.argmax(-1).tolist())


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_long_answer_is_scored_in_chunks_that_change_nothing(
    language_model: PreTrainedModel,
    prompt_1TD: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=64)
    answer = [3, 3, 3, 60, 2, 95]
    whole = score_answer(language_model, prompt, answer)
    monkeypatch.setattr(score, "LOGITS_ROWS", rows)
    head, computed = language_model.get_output_embeddings(), []
    hook = head.register_forward_hook(lambda *call: computed.append(call[-1].shape[1]))
    chunked = score_answer(language_model, prompt, answer)
    hook.remove()
    torch.testing.assert_close(
        torch.tensor(chunked.token_logprobs), torch.tensor(whole.token_logprobs), **TOLERANCE
    )
    assert chunked.predicted_ids == whole.predicted_ids
    assert max(computed) == rows
    assert sum(computed) == len(answer) - 1
    assert prompt.cache.get_seq_length() == prompt.length


def test_the_likeliest_tokens_match_exactly_and_any_other_answer_does_not(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=64)
    greedy: list[int] = []
    for _ in range(4):
        logprobs_SW = plain_logprobs(language_model, prompt_1TD, [*greedy, 0])
        greedy.append(int(logprobs_SW[-1].argmax()))
    assert score_answer(language_model, prompt, greedy).exact_match
    for place in range(4):
        wrong = list(greedy)
        wrong[place] = (wrong[place] + 1) % 90
        assert not score_answer(language_model, prompt, wrong).exact_match


def test_scoring_leaves_the_prompt_as_it_was(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=64)
    first = score_answer(language_model, prompt, [4, 5, 6])
    score_answer(language_model, prompt, [9, 9, 9, 9])
    assert prompt.cache.get_seq_length() == 37
    assert score_answer(language_model, prompt, [4, 5, 6]) == first


def test_options_are_ranked_by_mean_logprob(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    prompt = prefill(language_model, prompt_1TD, chunk=64)
    options = [[1], [2, 3, 4], [50, 51]]
    scores = [score_answer(language_model, prompt, option) for option in options]
    means = [sum(score.token_logprobs) / len(score.token_logprobs) for score in scores]
    assert best_option(scores) == means.index(max(means))


def test_an_empty_answer_is_an_error(
    language_model: PreTrainedModel, prompt_1TD: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        score_answer(language_model, prefill(language_model, prompt_1TD, chunk=64), [])
