"""Teacher-forced scores over a ring of processes: for prompts that one device cannot hold.

    RingPrompt: embeddings (1, T, D) on every rank + answer -> the same AnswerScore on every rank

One forward pass without a KV cache, each rank on its zigzag share of the sequence; attention goes
around the ring (`longva_ray.ring`). Logits are computed for the scored positions alone, where their
hidden states are. Decisions are those of `score_answer`; sums are taken in another order, so
log-probabilities agree to rounding. No free generation: that needs a cache.

Shapes: T tokens of the whole sequence, L tokens on this rank, S scored tokens, D width of the
language model, W words of the vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from longva_ray.answer.finite import check_finite
from longva_ray.answer.score import AnswerScore
from longva_ray.ring import hf
from longva_ray.ring.attention import Ring
from longva_ray.ring.layout import ZigzagLayout

LOGITS_ROWS = 1024
"""Positions whose logits exist at the same time; bounds memory for very many scored positions."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RingPrompt:
    """A prompt that every process of a ring has; nothing is computed before its answer is known."""

    embeds_1TD: torch.Tensor

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.embeds_1TD.shape[1]


def ring_attention_name() -> str:
    """Name of the ring's attention, which transformers knows in this process from now on."""
    hf.register()
    return hf.NAME


def score_over_ring(
    model: PreTrainedModel,
    prompt: RingPrompt,
    answer_ids: Sequence[int],
    group: dist.ProcessGroup | None,
) -> AnswerScore:
    """Score one answer after a prompt; every rank of `group` calls it with the same arguments.

    Raises ValueError for an empty answer, or a model whose attention is not the ring's.
    """
    if not answer_ids:
        raise ValueError("the answer has no tokens; score at least one")
    answer_S = torch.tensor(answer_ids, device=model.device)
    with torch.inference_mode():
        answer_1SD = model.get_input_embeddings()(answer_S[None, :-1]).to(prompt.embeds_1TD.dtype)
        embeds_1TD = torch.cat([prompt.embeds_1TD.to(model.device), answer_1SD], dim=1)
    logprobs_S, predicted_S = token_scores_over_ring(
        model, embeds_1TD, answer_S, start=prompt.length - 1, group=group
    )
    return AnswerScore(
        exact_match=bool((predicted_S == answer_S).all()),
        logprob=float(logprobs_S.sum()),
        token_logprobs=tuple(logprobs_S.tolist()),
        predicted_ids=tuple(predicted_S.tolist()),
    )


@torch.inference_mode()
def nll_over_ring(
    model: PreTrainedModel, token_ids_T: torch.Tensor, group: dist.ProcessGroup | None
) -> torch.Tensor:
    """`score.token_nll` over a ring: ids_T -> (T-1) float32, equal on every rank."""
    embeds_1TD = model.get_input_embeddings()(token_ids_T[None, :-1])
    logprobs_T, _ = token_scores_over_ring(model, embeds_1TD, token_ids_T[1:], start=0, group=group)
    return -logprobs_T


@torch.inference_mode()
def token_scores_over_ring(
    model: PreTrainedModel,
    embeds_1TD: torch.Tensor,
    targets_S: torch.Tensor,
    *,
    start: int,
    group: dist.ProcessGroup | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and likeliest token at positions start .. start + S - 1, where `targets_S`
    are to be said: -> (logprobs_S float32, predicted_S int64), equal on every rank.

    Raises FloatingPointError, on every rank, when the model's logits are not finite."""
    world_size = 1 if group is None else dist.get_world_size(group)
    layout = ZigzagLayout(document_lengths=(embeds_1TD.shape[1],), world_size=world_size)
    ring = Ring(layout=layout, group=group)
    local_1LD = layout.split(embeds_1TD, ring.rank, dim=1, pad_value=0)
    base = model.base_model
    hidden_LD = base(inputs_embeds=local_1LD, **hf.ring_inputs(model, ring)).last_hidden_state[0]
    scored_L = layout.token_indices(ring.rank) - start
    here_L = (scored_L >= 0) & (scored_L < len(targets_S))
    logprobs_S = torch.zeros(len(targets_S), device=model.device)
    predicted_S = torch.zeros(len(targets_S), dtype=torch.long, device=model.device)
    rows, places = here_L.nonzero()[:, 0], scored_L[here_L]
    for some_rows, some_places in zip(
        rows.split(LOGITS_ROWS), places.split(LOGITS_ROWS), strict=True
    ):
        logits_SW = model.get_output_embeddings()(hidden_LD[some_rows.to(model.device)]).float()
        some_places = some_places.to(model.device)
        picked = logits_SW.log_softmax(-1).gather(1, targets_S[some_places, None])[:, 0]
        logprobs_S[some_places] = picked
        predicted_S[some_places] = logits_SW.argmax(-1)
    if group is not None:  # each place was filled on one rank and is zero on all others
        dist.all_reduce(logprobs_S, group=group)
        dist.all_reduce(predicted_S, group=group)
    # Only now, because a sum with NaN is NaN: no rank waits for one that raised.
    check_finite(logprobs_S, "the log-probability of a token", model)
    return logprobs_S, predicted_S
