"""Causal attention with earlier keys, as a causal square and an unmasked rectangle.

    keys    | far: every query sees them | near: as many as queries |
    calls     unmasked rectangle            causal square              -> merged

Kernels agree about both of these calls. They disagree about the mask of a causal rectangle: some
align it to the first row and the first key, some to the last ones. Kernels that are only asked for
these two share this file.

Shapes as in `kernel`.
"""

from typing import Protocol

import torch

from longva_ray.ring.kernel import Gradients, OutAndLse, Saved, accumulate_dtype, merge_


class Forward(Protocol):
    """A square or an unmasked rectangle."""

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
    ) -> OutAndLse: ...


class Backward(Protocol):
    """Its gradients, given output and lse over all keys."""

    def __call__(
        self, grad_out: torch.Tensor, saved: Saved, *, causal: bool, scale: float
    ) -> Gradients: ...


def attend(
    op: Forward, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> OutAndLse:
    """One segment by `op`; two results are merged in the accumulation dtype."""
    far, near = keys_before_the_square(q, k, causal)
    if far is None:
        return op(q, k, v, causal=causal, scale=scale)
    out, lse = op(q, k[:, :, near], v[:, :, near], causal=True, scale=scale)
    out = out.to(accumulate_dtype(out.dtype))
    merge_(out, lse, *op(q, k[:, :, far], v[:, :, far], causal=False, scale=scale))
    return out, lse


def attend_backward(
    op: Backward, grad_out: torch.Tensor, saved: Saved, *, causal: bool, scale: float
) -> Gradients:
    """Gradients of one segment; the two shares of dq are added in the accumulation dtype."""
    far, near = keys_before_the_square(saved.q, saved.k, causal)
    if far is None:
        return op(grad_out, saved, causal=causal, scale=scale)
    rows = slice(None)
    near_grads = op(grad_out, saved.cut(rows, near), causal=True, scale=scale)
    far_grads = op(grad_out, saved.cut(rows, far), causal=False, scale=scale)
    dk, dv = (torch.cat([f, n], dim=2) for f, n in zip(far_grads[1:], near_grads[1:], strict=True))
    return near_grads[0].to(accumulate_dtype(saved.q.dtype)) + far_grads[0], dk, dv


def keys_before_the_square(
    q: torch.Tensor, k: torch.Tensor, causal: bool
) -> tuple[slice | None, slice]:
    """The keys that every query sees (None: there are none), and those of the causal square."""
    num_earlier = k.shape[2] - q.shape[2] if causal else 0
    return (slice(0, num_earlier) if num_earlier else None), slice(num_earlier, None)
