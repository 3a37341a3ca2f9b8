"""Prompts that begin alike, one after the other: the KV of what they share is computed once.

    prompt 1   haystack haystack haystack needle question
    prompt 2   haystack haystack needle haystack question       only what follows the first
    prompt 3   haystack haystack other-needle haystack question    difference is computed

A drop-in for `prefill`: the reader keeps the cache of the last prompt, finds by itself how far the
next one is equal, cuts the cache there and goes on. Nobody declares what is shared, so nobody can
declare it wrongly. One cache is kept, whatever the number of prompts; ask in an order in which
neighbours share much (needle tests: from the deepest needle to the shallowest, all lengths mixed).

The shared part is rounded down to whole chunks. Every chunk is then the same matrix product as
without reuse, so results are equal bit for bit, at the price of less than one chunk a prompt.

Costs memory: the embeddings of the last prompt are kept with its cache. Does not share between
processes, nor keep more than one branch.

Shapes: T prompt tokens, D width of the language model.
"""

import threading

import torch
from transformers import DynamicCache, PreTrainedModel

from longva_ray.answer.prefill import Prefill, prefill


class PrefixReader:
    """Reads prompts into one KV cache; each result lives until the next prompt is read."""

    def __init__(self, model: PreTrainedModel, *, chunk: int) -> None:
        self._model = model
        self._chunk = chunk
        self._cache: DynamicCache | None = None
        self._cached_1TD: torch.Tensor | None = None
        self.tokens_read = 0
        """Tokens of all prompts so far."""
        self.tokens_reused = 0
        """Those of them that did not have to be computed."""

    def read(
        self, inputs_embeds_1TD: torch.Tensor, unwanted: threading.Event | None = None
    ) -> Prefill:
        """`answer.prefill.prefill`, without computing again what the last prompt began with.

        Raises ValueError and InterruptedError as `prefill` does.
        """
        shared = self._shared_tokens(inputs_embeds_1TD)
        cache, self._cache, self._cached_1TD = self._cache, None, None  # until this one is whole
        if cache is not None and shared:
            cache.crop(shared - cache.get_seq_length())
        else:
            cache = None
        rest_1TD = inputs_embeds_1TD[:, shared:]
        prompt = prefill(self._model, rest_1TD, chunk=self._chunk, cache=cache, unwanted=unwanted)
        self._cache, self._cached_1TD = prompt.cache, inputs_embeds_1TD
        self.tokens_read += prompt.length
        self.tokens_reused += shared
        return prompt

    def _shared_tokens(self, inputs_embeds_1TD: torch.Tensor) -> int:
        """Whole chunks in which both prompts are equal, in tokens, and never the last token."""
        if self._cached_1TD is None:
            return 0
        longest = min(inputs_embeds_1TD.shape[1] - 1, self._cached_1TD.shape[1])
        shared = 0
        while shared + self._chunk <= longest:
            chunk = slice(shared, shared + self._chunk)
            if not torch.equal(inputs_embeds_1TD[:, chunk], self._cached_1TD[:, chunk]):
                break
            shared += self._chunk
        return shared
