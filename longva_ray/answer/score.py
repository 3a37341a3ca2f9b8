"""Prompt + a given answer -> does the model say it, and how likely is it: teacher-forced scoring.

Section 4 of the paper: an answer counts as right when, at every position of its span, the most
likely token is the answer's token. Beside that verdict stands the log-probability, which also ranks
the options of a multiple choice. The prompt is prefilled once for all options.

Shapes: S tokens of the answer span, T tokens of a text, W words of the vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from longva_ray.answer.prefill import Prefill


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

    Raises ValueError for an empty answer.
    """
    if not answer_ids:
        raise ValueError("the answer has no tokens; score at least one")
    answer_S = torch.tensor(answer_ids, device=prompt.next_logits_W.device)
    logits_SW = prompt.next_logits_W[None]
    if len(answer_ids) > 1:
        output = model(input_ids=answer_S[None, :-1], past_key_values=prompt.cache, use_cache=True)
        prompt.rewind()
        logits_SW = torch.cat([logits_SW, output.logits[0].float()])
    logprobs_S = logits_SW.log_softmax(-1).gather(1, answer_S[:, None])[:, 0]
    predicted_S = logits_SW.argmax(-1)
    return AnswerScore(
        exact_match=bool((predicted_S == answer_S).all()),
        logprob=float(logprobs_S.sum()),
        token_logprobs=tuple(logprobs_S.tolist()),
        predicted_ids=tuple(predicted_S.tolist()),
    )


def best_option(scores: Sequence[AnswerScore]) -> int:
    """Index of the most likely option by mean log-probability; the first wins a tie."""
    return max(range(len(scores)), key=lambda option: scores[option].mean_logprob)


@torch.inference_mode()
def token_nll(model: PreTrainedModel, token_ids_T: torch.Tensor, *, chunk: int) -> torch.Tensor:
    """Negative log-likelihood of tokens 1 .. T-1, each given all before it: ids_T -> (T-1) float32.

    Bounded by `chunk` rows of logits at a time."""
    cache = DynamicCache(config=model.config)
    parts = []
    for start in range(0, len(token_ids_T) - 1, chunk):
        stop = min(start + chunk, len(token_ids_T) - 1)
        output = model(
            input_ids=token_ids_T[None, start:stop], past_key_values=cache, use_cache=True
        )
        logprobs_TW = output.logits[0].float().log_softmax(-1)
        targets_T = token_ids_T[start + 1 : stop + 1]
        parts.append(-logprobs_TW.gather(1, targets_T[:, None])[:, 0])
    return torch.cat(parts)
