"""What the benches share: sizes of inputs, timing in turns, and the plain code to compare with."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from longva_ray.lm.loss import linear_cross_entropy

GIB = 2**30

Seconds = dict[str, list[float]]
"""Of each candidate, round by round."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    wanted: str = ""


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """Attention of one layer over the whole sequence."""

    tokens: int
    heads: int
    key_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.heads}/{self.key_heads} heads of {self.head_dim}"

    def inputs(self, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
        """q, k, v and the gradient of the output."""
        torch.manual_seed(0)
        heads = (self.heads, self.key_heads, self.key_heads, self.heads)
        return [
            torch.randn(1, n, self.tokens, self.head_dim, dtype=dtype, device=device) for n in heads
        ]


@dataclasses.dataclass(frozen=True)
class LossShape:
    """Hidden states of L tokens and width D against a vocabulary of V words."""

    tokens: int
    width: int
    words: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens x {self.words} words, width {self.width}"

    def inputs(self, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
        """Hidden states, output weight, labels."""
        hidden = torch.randn(self.tokens, self.width, dtype=dtype, device=device)
        weight = torch.randn(self.words, self.width, dtype=dtype, device=device).mul_(0.02)
        labels = torch.randint(self.words, (self.tokens,), device=device)
        return [hidden.requires_grad_(), weight.requires_grad_(), labels]

    def plain_bytes(self) -> int:
        """Peak of the plain path: log-probabilities and two gradients of them, all in float32."""
        return 12 * self.tokens * self.words

    def tiled_bytes(self, itemsize: int, tile_tokens: int) -> int:
        """Peak of the tiled path: gradients of both inputs and one tile of float32 scores.

        In low precision also its copy, and one product before it is added to the gradient.
        """
        gradients = 4 * self.words * self.width + itemsize * self.tokens * self.width
        low_precision = itemsize * self.words * (self.width + tile_tokens) if itemsize < 4 else 0
        return gradients + low_precision + 4 * tile_tokens * self.words


def alternate(
    candidates: Mapping[str, Callable[[], Any]], repeats: int, settle: Callable[[], Any]
) -> Seconds:
    """Seconds of each candidate in each round, after one round that is not counted.

    Each round starts with the next candidate, so what one leaves in caches and in the allocator
    affects a different one each time. `settle` runs before each clock reading.
    """
    seconds: Seconds = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(1 + repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            settle()
            start = time.perf_counter()
            candidates[name]()
            settle()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def speedup(seconds: Seconds, slow: str, fast: str) -> float:
    """Median over rounds of how many times faster `fast` was than `slow` in the same round."""
    return statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))


def attend(
    attention: Callable[..., torch.Tensor], tensors: list[torch.Tensor]
) -> list[torch.Tensor]:
    """One forward and backward pass: out, dq, dk, dv."""
    q, k, v = (t.detach().requires_grad_() for t in tensors[:3])
    out = attention(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3])]


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def plain_loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What transformers does: all scores, in float32, then cross-entropy."""
    return F.cross_entropy(F.linear(hidden, weight).float(), labels)


def loss_step(tile_tokens: int | None, inputs: list[torch.Tensor]) -> None:
    """Forward and backward of the tiled loss, or of the plain one for 0 tokens a tile."""
    tiled = functools.partial(linear_cross_entropy, tile_tokens=tile_tokens)
    torch.autograd.grad((plain_loss if tile_tokens == 0 else tiled)(*inputs), inputs[:2])
