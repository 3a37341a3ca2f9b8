"""Which tokens of a prompt an answer looks at: its attention to each of them, summed.

    model(..., attention_mass=mass)     # a model under `longva_cached` adds to it in every layer
    mass.of_keys_T

The kernels that answer keep no weights. So the tokens of a finished answer are read once more, and
the weights of these few queries are computed beside the kernel. That costs a little more than
generating them did, whatever the length of the prompt.

What it does not show: why an answer was given. Attention says where a model looked, and some heads
look at the same places whatever is asked.

Shapes: B batch (always 1 here), N query heads, M key heads, G query heads of a key head, L queries,
T keys, H width of a head.
"""

import torch

from longva_ray.answer.prefill import Prefill

QUERIES = 16
"""Tokens of an answer whose weights exist at the same time: for 400K keys and 7 query heads of a
key head, 180 MB in float32."""


class AttentionMass:
    """Attention to the first tokens of a sequence, summed over layers, heads and queries."""

    def __init__(self, num_keys: int, device: torch.device) -> None:
        self.of_keys_T = torch.zeros(num_keys, device=device)

    def add(self, query_BNLH: torch.Tensor, key_BMTH: torch.Tensor, *, scale: float) -> None:
        """Add what one layer's queries, which are the last of its keys, pay to the first keys."""
        query_MGLH = query_BNLH[0].unflatten(0, (key_BMTH.shape[1], -1))
        length, total = query_BNLH.shape[2], key_BMTH.shape[2]
        ahead_LT = torch.ones(length, total, dtype=torch.bool, device=key_BMTH.device)
        ahead_LT.triu_(total - length + 1)
        for query_GLH, key_TH in zip(query_MGLH, key_BMTH[0], strict=True):
            scores_GLT = (query_GLH @ key_TH.T).float() * scale
            weights_GLT = scores_GLT.masked_fill_(ahead_LT, -torch.inf).softmax(-1)
            self.of_keys_T += weights_GLT.sum((0, 1))[: len(self.of_keys_T)]


@torch.inference_mode()
def attention_of_answer(
    model: torch.nn.Module, prompt: Prefill, answer_ids: list[int]
) -> torch.Tensor | None:
    """Attention that the tokens of an answer pay to each token of the prompt: (T) float32, its sum
    at most 1; None for a model whose attention is not `longva_cached`. The prompt's cache is left
    as it was.
    """
    device = prompt.next_logits_W.device
    mass = AttentionMass(prompt.length, device)
    try:
        for ids_L in torch.tensor([answer_ids], device=device).split(QUERIES, dim=1):
            model(
                input_ids=ids_L,
                past_key_values=prompt.cache,
                use_cache=True,
                logits_to_keep=1,
                attention_mass=mass,
            )
    finally:
        prompt.rewind()
    total = mass.of_keys_T.sum()
    return mass.of_keys_T if total else None
