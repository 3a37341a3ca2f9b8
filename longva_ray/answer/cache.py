"""A KV cache that grows without copying itself.

    cache = roomy_cache(model)
    make_room(cache, tokens)                  # for a prompt and its answer
    model(..., past_key_values=cache)         # appends in place

Transformers' `DynamicCache` joins old and new keys into a new tensor at every step, so each
generated token copies the whole cache: 16 GB for 288K tokens of Qwen2-7B. Here keys and values are
written into buffers that have room for more, and the model sees the filled part. A buffer that is
full is copied, once, into one that is a block larger.

What it does not do: layers with a sliding window or states of another kind, which stay
transformers' own; beams and batches.

Shapes: B batch, M key heads, T tokens in the cache, H width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

BLOCK = 1024
"""Tokens by which a full buffer grows; 58 MB of Qwen2-7B."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer: views BMTH of the beginning of two larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.room = 0
        """Tokens that the next buffer is for; one for more is a whole number of blocks larger than
        what is held."""
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens; returns keys and values of all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, new = self.get_seq_length() - self.trunk_length, key_states.shape[-2]
        assert self.keys is not None
        assert self.values is not None
        # Whoever put other tensors in place of the views would lose what is appended here.
        assert not held or self.keys.data_ptr() == self._buffers[0].data_ptr()
        if not self._buffers or held + new > self._buffers[0].shape[-2]:
            enough = self.room >= held + new
            room = self.room if enough else held + -(-new // BLOCK) * BLOCK
            self._buffers = [
                self._larger(old, like, held, room)
                for old, like in ((self.keys, key_states), (self.values, value_states))
            ]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., held : held + new, :] = states
        self.keys, self.values = (buffer[..., : held + new, :] for buffer in self._buffers)
        return self.keys, self.values

    @property
    def trunk_length(self) -> int:
        """Tokens before the first of its own: none, but for a branch (`answer.branch`)."""
        return 0

    def get_seq_length(self) -> int:
        """Tokens in all."""
        return self.trunk_length + super().get_seq_length()

    def reset(self) -> None:
        """Drop everything, the buffers too."""
        self._buffers = []
        super().reset()

    @staticmethod
    def _larger(old: torch.Tensor, like: torch.Tensor, held: int, room: int) -> torch.Tensor:
        buffer = like.new_empty((*like.shape[:-2], room, like.shape[-1]))
        if held:
            buffer[..., :held, :] = old
        return buffer


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model, roomy in every layer that keeps all keys."""
    cache = DynamicCache(config=model.config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def make_room(cache: DynamicCache, tokens: int) -> None:
    """Let the next buffers have room for that many tokens in all."""
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            layer.room = tokens - layer.trunk_length


def bytes_per_token(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers."""
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # The families without grouped queries (GPT-NeoX, OPT) do not say how many heads have keys.
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head) * model.dtype.itemsize
