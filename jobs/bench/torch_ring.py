"""Torch's own zigzag ring, to compare with: private, experimental, and on CPU without autograd.

    q (B, N, L, H), k and v (B, M, L, H), grad_out  ->  out, dq, dk, dv on every rank

It knows one document whose length is a multiple of 2W tokens. Tests and benches are all that uses
it. Shapes: B batch, N query heads, M key heads, L local tokens, H head dimension.
"""

import torch
import torch.distributed as dist


def torch_ring(
    group: dist.ProcessGroup,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grad_out: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """One forward and backward pass; every rank of the group calls it."""
    from torch.distributed.tensor.experimental._context_parallel import _attention as private

    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    with torch.no_grad():
        out, lse = private._templated_ring_attention(
            group, 2, forward, q, k, v, is_causal=True, dropout_p=0.0
        )
        grads = private._templated_ring_attention_backward(
            group, 2, backward, grad_out, "grad_out", q, k, v, out, lse, True, dropout_p=0.0
        )
    return out, *grads
