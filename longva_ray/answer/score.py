"""Prompt + a given answer -> does the model say it, and how likely is it: teacher-forced scoring.

Section 4 of the paper: an answer counts as right when, at every position of its span, the most
likely token is the answer's token. The log-probability is returned as well; it also ranks the
options of a multiple choice. The prompt is prefilled once for all options.

Shapes: S tokens of the answer span, T tokens of a text, W words of the vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from longva_ray.answer.cache import make_room, roomy_cache
from longva_ray.answer.finite import check_finite
from longva_ray.answer.prefill import Prefill

LOGITS_ROWS = 256
"""Tokens of an answer whose logits exist at the same time; in float32 a row of Qwen2's is 0.6
MB."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScore:
    """What teacher forcing says about one answer."""

    exact_match: bool
    """Every token of the answer is the most likely one at its place (section 4)."""
    logprob: float
    """Natural logarithm of the probability of the whole answer."""
    token_logprobs: tuple[float, ...]
    predicted_ids: tuple[int, ...]
    """The most likely token at each place, given the true tokens before it."""

    @property
    def mean_logprob(self) -> float:
        """Log-probability for each token: comparable between answers of different length."""
        return self.logprob / len(self.token_logprobs)


@torch.inference_mode()
def score_answer(model: PreTrainedModel, prompt: Prefill, answer_ids: Sequence[int]) -> AnswerScore:
    """Score one answer after a prompt; the prompt's cache is left as it was.

    Raises ValueError for an empty answer, FloatingPointError when the model's logits are not
    finite.
    """
    if not answer_ids:
        raise ValueError("the answer has no tokens; score at least one")
    answer_S = torch.tensor(answer_ids, device=prompt.next_logits_W.device)
    scored = [_token_scores(prompt.next_logits_W[None], answer_S[:1])]
    try:
        for start in range(0, len(answer_ids) - 1, LOGITS_ROWS):
            said_S = answer_S[start : start + LOGITS_ROWS + 1]
            output = model(
                input_ids=said_S[None, :-1], past_key_values=prompt.cache, use_cache=True
            )
            scored.append(_token_scores(output.logits[0], said_S[1:]))
    finally:
        prompt.rewind()
    logprobs_S, predicted_S = (torch.cat(parts) for parts in zip(*scored, strict=True))
    check_finite(logprobs_S, "the log-probability of a token of the answer", model)
    return AnswerScore(
        exact_match=bool((predicted_S == answer_S).all()),
        logprob=float(logprobs_S.sum()),
        token_logprobs=tuple(logprobs_S.tolist()),
        predicted_ids=tuple(predicted_S.tolist()),
    )


def _token_scores(
    logits_SW: torch.Tensor, targets_S: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> (log-probabilities of the targets, float32; likeliest tokens)."""
    logits_SW = logits_SW.float()
    logprobs_S = logits_SW.log_softmax(-1).gather(1, targets_S[:, None])[:, 0]
    return logprobs_S, logits_SW.argmax(-1)


def best_option(scores: Sequence[AnswerScore]) -> int:
    """Index of the most likely option by mean log-probability; the first wins a tie."""
    return max(range(len(scores)), key=lambda option: scores[option].mean_logprob)


@torch.inference_mode()
def token_nll(model: PreTrainedModel, token_ids_T: torch.Tensor, *, chunk: int) -> torch.Tensor:
    """Negative log-likelihood of tokens 1 .. T-1, each given all before it: ids_T -> (T-1) float32.

    Bounded by `chunk` rows of logits at a time. Raises FloatingPointError when they are not finite.
    """
    cache = roomy_cache(model)
    make_room(cache, len(token_ids_T))
    parts = []
    for start in range(0, len(token_ids_T) - 1, chunk):
        stop = min(start + chunk, len(token_ids_T) - 1)
        output = model(
            input_ids=token_ids_T[None, start:stop], past_key_values=cache, use_cache=True
        )
        logprobs_TW = output.logits[0].float().log_softmax(-1)
        targets_T = token_ids_T[start + 1 : stop + 1]
        parts.append(-logprobs_TW.gather(1, targets_T[:, None])[:, 0])
    nll_T = torch.cat(parts)
    check_finite(nll_T, "the negative log-likelihood of a token of the text", model)
    return nll_T
