"""Torch's CUDA attention operators on a CPU, by definition: what the GPU kernels call, in float64.

    with cuda_operators_on_cpu() as calls:    # names of the operators that ran, in order

They stand in the places of the real ones, so the code under test calls them through torch, with
every argument that it passes on a GPU. They refuse what was never tried on one: a causal rectangle
for cuDNN.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from block_reference import attend

from longva_ray.ring.kernel import Gradients


@contextlib.contextmanager
def cuda_operators_on_cpu() -> Iterator[list[str]]:
    calls: list[str] = []
    library = torch.library.Library("aten", "IMPL")

    def operator(name: str, function: Any) -> None:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        library.impl(name, run, "CPU")

    operator("_scaled_dot_product_cudnn_attention", _cudnn)
    operator("_scaled_dot_product_cudnn_attention_backward", _cudnn_backward)
    operator("_flash_attention_forward", _flash)
    operator("_flash_attention_backward", _flash_backward)
    try:
        yield calls
    finally:
        library._destroy()


def _cudnn(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: None,
    compute_lse: bool,
    dropout: float = 0.0,
    causal: bool = False,
    debug: bool = False,
    *,
    scale: float,
) -> tuple[Any, ...]:
    assert bias is None
    assert compute_lse
    assert (dropout, debug) == (0.0, False)
    assert not causal or q.shape[2] == k.shape[2]
    out, lse = attend(q, k, v, causal, scale)
    zero = torch.zeros((), dtype=torch.long)
    return out, lse[..., None], None, None, q.shape[2], k.shape[2], zero, zero, None


def _cudnn_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    seed: torch.Tensor,
    offset: torch.Tensor,
    bias: None,
    query_starts: None,
    key_starts: None,
    max_queries: int,
    max_keys: int,
    dropout: float,
    causal: bool,
    *,
    scale: float,
) -> Gradients:
    assert (bias, query_starts, key_starts, dropout) == (None, None, None, 0.0)
    assert (max_queries, max_keys) == (q.shape[2], k.shape[2])
    assert not causal or max_queries == max_keys
    assert lse.shape == (*q.shape[:3], 1)
    assert lse.is_contiguous()
    for each in (seed, offset):
        assert (each.shape, each.dtype) == ((), torch.long)
    return shares(grad_out, q, k, v, out, lse[..., 0], causal, scale)


def _flash(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_starts: torch.Tensor | None,
    key_starts: torch.Tensor | None,
    max_queries: int,
    max_keys: int,
    dropout: float,
    causal: bool,
    debug: bool,
    *,
    scale: float,
) -> tuple[Any, ...]:
    assert (dropout, debug) == (0.0, False)
    outs, lses = [], []
    for rows, keys in _segments(q, k, query_starts, key_starts, max_queries, max_keys):
        segment = (
            _heads_first(t) for t in (q[..., rows, :, :], k[..., keys, :, :], v[..., keys, :, :])
        )
        out, lse = attend(*segment, causal, scale)
        outs.append(out.transpose(1, 2))
        lses.append(lse)
    out, lse = torch.cat(outs, dim=1), torch.cat(lses, dim=2)
    packed = query_starts is not None
    none = torch.empty(0)
    return (out[0], lse[0], none, none, none) if packed else (out, lse, none, none, none)


def _flash_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    query_starts: torch.Tensor | None,
    key_starts: torch.Tensor | None,
    max_queries: int,
    max_keys: int,
    dropout: float,
    causal: bool,
    rng_state: torch.Tensor,
    unused: torch.Tensor,
    *,
    scale: float,
) -> Gradients:
    assert lse.is_contiguous()
    packed = query_starts is not None
    grads: list[list[torch.Tensor]] = [[], [], []]
    lse_BNS = lse[None] if packed else lse
    for rows, keys in _segments(q, k, query_starts, key_starts, max_queries, max_keys):
        pieces = [_heads_first(t[..., rows, :, :]) for t in (grad_out, q, out)]
        of_keys = [_heads_first(t[..., keys, :, :]) for t in (k, v)]
        found = shares(
            pieces[0], pieces[1], *of_keys, pieces[2], lse_BNS[:, :, rows], causal, scale
        )
        for total, grad in zip(grads, found, strict=True):
            total.append(grad.transpose(1, 2))
    dq, dk, dv = (torch.cat(total, dim=1) for total in grads)
    return (dq[0], dk[0], dv[0]) if packed else (dq, dk, dv)


def _segments(
    q: torch.Tensor,
    k: torch.Tensor,
    query_starts: torch.Tensor | None,
    key_starts: torch.Tensor | None,
    max_queries: int,
    max_keys: int,
) -> Iterator[tuple[slice, slice]]:
    """Rows of packed (S, N, H) by their offsets; all rows of dense (B, S, N, H)."""
    if query_starts is None or key_starts is None:
        assert q.dim() == k.dim() == 4
        yield slice(None), slice(None)
        return
    assert q.dim() == k.dim() == 3
    assert query_starts.dtype == key_starts.dtype == torch.int32
    queries, keys = query_starts.tolist(), key_starts.tolist()
    for i in range(len(queries) - 1):
        assert queries[i + 1] - queries[i] <= max_queries
        assert keys[i + 1] - keys[i] <= max_keys
        yield slice(queries[i], queries[i + 1]), slice(keys[i], keys[i + 1])


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """(B, S, N, H), or (S, N, H) packed -> (B, N, S, H)."""
    return (x if x.dim() == 4 else x[None]).transpose(1, 2)


def shares(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    causal: bool,
    scale: float,
) -> Gradients:
    """dq, dk, dv by the formula that flash kernels document, from any output and lse.

    With weights p = exp(score - lse): dv = p' g, dscore = p (g v' - rowsum(g out)).
    """
    ratio = q.shape[1] // k.shape[1]
    all_k, all_v = (t.repeat_interleave(ratio, dim=1) for t in (k, v))
    scores = q @ all_k.transpose(-1, -2) * scale
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = (scores - lse[..., None]).exp()
    delta = (grad_out * out).sum(-1, keepdim=True)
    grad_scores = weights * (grad_out @ all_v.transpose(-1, -2) - delta) * scale
    dk, dv = grad_scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ grad_out
    dk, dv = (t.unflatten(1, (k.shape[1], ratio)).sum(2) for t in (dk, dv))
    return grad_scores @ all_k, dk, dv
