"""The flash-attention operators of torch that have no public name.

Torch's public attention takes no log-sum-exp in its backward pass, and a ring has to pass one in,
so the operators underneath are called. They may change with any release. All that are used stand
here and nowhere else, and a test compares their schemas with what is passed.

    cpu_flash     q (B, N, S, H), k and v (B, M, S', H)  ->  out, lse (B, N, S)
    cuda_flash    q (B, S, N, H), k and v (B, S', M, H)  ->  out, lse (B, N, S)
                  or packed rows (S, N, H) with offsets  ->  out, lse (N, S)
    cudnn         q (B, N, S, H), k and v (B, M, S', H)  ->  out, lse (B, N, S)

All backward functions return dq, dk, dv in the layout of q, k, v. No dropout anywhere.
"""

from typing import TypeAlias

import torch

from longva_ray.ring.kernel import Gradients, OutAndLse, Saved

Offsets: TypeAlias = tuple[torch.Tensor | None, torch.Tensor | None, int, int]
"""Where packed segments of queries and of keys start, and the longest of each."""


def cpu_flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> OutAndLse:
    """A causal mask is aligned to the first row and the first key."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, scale=scale
    )


def cpu_flash_backward(
    grad_out: torch.Tensor, saved: Saved, *, causal: bool, scale: float
) -> Gradients:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out, *saved, 0.0, causal, scale=scale
    )


def cuda_flash(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    offsets: Offsets,
    *,
    causal: bool,
    scale: float,
) -> OutAndLse:
    """A causal mask is aligned to the last row and the last key."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, *offsets, 0.0, causal, False, scale=scale
    )
    return out, lse


def cuda_flash_backward(
    grad_out: torch.Tensor, saved: Saved, offsets: Offsets, *, causal: bool, scale: float
) -> Gradients:
    # The random state only matters with dropout.
    rng_state = torch.zeros(2, dtype=torch.uint64, device=grad_out.device)
    unused = torch.empty(0, device=grad_out.device)
    return torch.ops.aten._flash_attention_backward(
        grad_out, *saved, *offsets, 0.0, causal, rng_state, unused, scale=scale
    )


def cudnn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> OutAndLse:
    """A causal mask only for squares: how others are aligned was not tried."""
    assert not causal or q.shape[2] == k.shape[2]
    out, lse_BNS1, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out, lse_BNS1.squeeze(-1)


def cudnn_backward(
    grad_out: torch.Tensor, saved: Saved, *, causal: bool, scale: float
) -> Gradients:
    assert not causal or saved.q.shape[2] == saved.k.shape[2]
    q, k, v, out, lse_BNS = saved
    # Seed and offset only matter with dropout. The lse is read with the strides of a fresh one.
    unused = torch.zeros((), dtype=torch.long, device=grad_out.device)
    return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        grad_out,
        q,
        k,
        v,
        out,
        lse_BNS.contiguous().unsqueeze(-1),
        unused,
        unused,
        None,
        None,
        None,
        q.shape[2],
        k.shape[2],
        0.0,
        causal,
        scale=scale,
    )
