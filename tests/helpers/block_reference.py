"""Blocks of every kind that a plan makes, and what a kernel has to compute on them."""

import torch
from ring_reference import random_inputs, relative_error

from longva_ray.ring.kernel import Kernel, OutAndLse, Saved
from longva_ray.ring.plan import Block

SCALE = 8**-0.5


def block_of(query_lengths: list[int], key_lengths: list[int], *, causal: bool) -> Block:
    """Segments one after another, by their lengths."""
    query_starts, key_starts = ([0], [0])
    for starts, lengths in ((query_starts, query_lengths), (key_starts, key_lengths)):
        for length in lengths:
            starts.append(starts[-1] + length)
    return Block(
        queries=slice(0, query_starts[-1]),
        keys=slice(0, key_starts[-1]),
        query_starts=tuple(query_starts),
        key_starts=tuple(key_starts),
        causal=causal,
        varies=False,
    )


BLOCKS = {
    "square": block_of([9], [9], causal=True),
    "squares": block_of([4, 1, 7], [4, 1, 7], causal=True),
    "causal with earlier keys": block_of([5], [12], causal=True),
    "causal, earlier keys in the first document": block_of([5, 3], [12, 3], causal=True),
    "rectangle": block_of([5], [12], causal=False),
    "one query": block_of([1], [12], causal=False),
    "one key": block_of([12], [1], causal=False),
}


def block_inputs(block: Block, *, batch: int = 2, ratio: int = 2) -> tuple[torch.Tensor, ...]:
    """q, k, v and the gradient of the output; `ratio` query heads share a key head."""
    q, _, _, grad_out = random_inputs(block.query_starts[-1], batch=batch, heads=2 * ratio)
    _, k, v, _ = random_inputs(block.key_starts[-1], batch=batch, key_heads=2, seed=1)
    return q, k, v, grad_out


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float = SCALE
) -> OutAndLse:
    """One segment by definition, the mask aligned to the last query and last key."""
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def segments_by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block
) -> OutAndLse:
    results = [
        attend(q[:, :, rows], k[:, :, keys], v[:, :, keys], block.causal)
        for rows, keys in block.segments()
    ]
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def check_block(kernel: Kernel, block: Block, ratio: int) -> None:
    """Forward and backward of a float64 kernel against the definition."""
    q, k, v, grad_out = block_inputs(block, ratio=ratio)
    wanted_out, wanted_lse = segments_by_definition(q, k, v, block)
    out, lse = kernel.forward(q, k, v, block, scale=SCALE)
    assert relative_error(out, wanted_out) <= 1e-12
    assert relative_error(lse, wanted_lse) <= 1e-12
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    wanted = torch.autograd.grad(segments_by_definition(*leaves, block)[0], leaves, grad_out)
    got = kernel.backward(grad_out, Saved(q, k, v, out, lse), block, scale=SCALE)
    for g, w in zip(got, wanted, strict=True):
        assert relative_error(g, w) <= 1e-12
