"""One beginning, many continuations: the KV of a video is shared by all questions about it.

    trunk = Trunk.of(cache)            # read once
    cache = branch_cache(trunk)        # for each question; appends to itself alone

The trunk is never copied and never written, so any number of branches may be read and extended at
the same time, by threads too. Attention over the two parts is computed apart and merged, as a ring
merges the parts of other processes (`ring.kernel.merge_`). It equals attention over the whole to
rounding.

Only a model under `longva_cached` (`answer.attention`) understands such a cache.

Shapes: B batch (always 1 here), M key heads, P tokens of the trunk, T tokens of the branch, H width
of a head.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from longva_ray.answer.cache import RoomyLayer


class InTwoParts(NamedTuple):
    """Keys (or values) of one layer: what branches share, BMPH, and what is this one's, BMTH."""

    trunk: torch.Tensor
    branch: torch.Tensor

    def whole(self) -> torch.Tensor:
        """One tensor B, M, P + T, H; a copy."""
        return torch.cat(self, dim=-2)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trunk:
    """Keys and values of every layer for the beginning of a prompt."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def of(cls, cache: DynamicCache) -> Trunk:
        """What a cache from `roomy_cache` holds; it must not be appended to any more."""
        layers = []
        for layer in cache.layers:
            assert isinstance(layer, RoomyLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layers.append((layer.keys, layer.values))
        return cls(layers=tuple(layers))

    @property
    def length(self) -> int:
        """Tokens."""
        return self.layers[0][0].shape[-2]

    @property
    def num_bytes(self) -> int:
        """Of the buffers, with room that was never filled, if there is any."""
        return sum(part.untyped_storage().nbytes() for layer in self.layers for part in layer)


class BranchLayer(RoomyLayer):
    """A layer that begins with a trunk's keys and values and appends to its own."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self._trunk = keys, values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any) -> Any:
        """Append tokens; returns keys and values `InTwoParts`, which transformers hands on to the
        attention function as they are."""
        own = super().update(key_states, value_states)
        return tuple(InTwoParts(*parts) for parts in zip(self._trunk, own, strict=True))

    @property
    def trunk_length(self) -> int:
        return self._trunk[0].shape[-2]


def branch_cache(trunk: Trunk) -> DynamicCache:
    """A cache that begins with the trunk."""
    cache = DynamicCache()
    cache.layers = [BranchLayer(keys, values) for keys, values in trunk.layers]
    return cache
