"""Prompt embeddings -> KV cache and next-token logits: what scoring and generation both start from.

The prompt goes through the model in chunks, so activations and the attention mask stay bounded
(chunk x prompt instead of prompt x prompt) and no logits are ever computed for positions that
are not used. The result equals one long forward pass, because attention is causal.

Shapes: B batch (always 1 here), T prompt tokens, D width of the language model, W words of the
vocabulary."""

import dataclasses
import threading

import torch
from transformers import DynamicCache, PreTrainedModel

from longva_ray.answer.cache import BLOCK, make_room, roomy_cache


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prefill:
    """A prompt inside the cache. Readers may append to `cache` but must `rewind` it afterwards."""

    cache: DynamicCache
    length: int
    next_logits_W: torch.Tensor

    def rewind(self) -> None:
        """Drop everything that was appended after the prompt."""
        appended = self.cache.get_seq_length() - self.length
        if appended:
            self.cache.crop(-appended)


@torch.inference_mode()
def prefill(
    model: PreTrainedModel,
    inputs_embeds_1TD: torch.Tensor,
    *,
    chunk: int,
    cache: DynamicCache | None = None,
    spare: int = BLOCK,
    unwanted: threading.Event | None = None,
) -> Prefill:
    """Run a prompt through the language model, `chunk` tokens at a time.

    Args:
        inputs_embeds_1TD: of the prompt; of what follows what is in the `cache`, where one is
            given.
        cache: the beginning of the prompt (`answer.prefix`, `answer.branch`). The rest is appended.
        spare: tokens that are to follow, for which there will be room; most answers fit in a block.
        unwanted: looked at before each chunk; when it is set, nobody waits for the result.

    Raises ValueError for an empty prompt or a batch of several, InterruptedError when the result is
    unwanted.
    """
    batch, length, _ = inputs_embeds_1TD.shape
    if batch != 1 or length == 0:
        raise ValueError(
            f"prefill takes one prompt of at least one token, got batch {batch} of length {length}"
        )
    if cache is None:
        cache = roomy_cache(model)
    length += cache.get_seq_length()
    make_room(cache, length + spare)
    for part_1TD in inputs_embeds_1TD.split(chunk, dim=1):
        if unwanted is not None and unwanted.is_set():
            raise InterruptedError("the client of this prompt has gone")
        output = model(
            inputs_embeds=part_1TD, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
    return Prefill(cache=cache, length=length, next_logits_W=output.logits[0, -1].float())
