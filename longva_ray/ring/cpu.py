"""The attention kernel for CPUs: torch's own flash attention, with a plain path for float64."""

import torch

from longva_ray.ring.kernel import Gradients, OutAndLse, accumulate_dtype, merge_
from longva_ray.ring.plan import Block


class AtenCpu:
    """Torch's CPU flash op.

    Its causal mask is aligned to the first row and first key when there are more keys than queries
    (the CUDA ops align to the last ones), so it is only ever asked for squares and for unmasked
    rectangles: a causal segment with keys in front of it is computed as one of each, in the
    accumulation dtype, and rounded once.
    """

    name = "aten (CPU flash)"

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        parts = [
            _cpu_forward(q[:, :, rows], k[:, :, keys], v[:, :, keys], block.causal, scale)
            for rows, keys in block.segments()
        ]
        if len(parts) == 1:
            return parts[0]
        outs, lses = zip(*parts, strict=True)
        return torch.cat(outs, dim=2), torch.cat(lses, dim=2)

    def backward(
        self,
        grad_out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        block: Block,
        *,
        scale: float,
    ) -> Gradients:
        parts = []
        for rows, keys in block.segments():
            grad_rows, q_rows, out_rows, lse_rows = (t[:, :, rows] for t in (grad_out, q, out, lse))
            key_rows, value_rows = k[:, :, keys], v[:, :, keys]
            parts.append(
                _cpu_backward(
                    grad_rows, q_rows, key_rows, value_rows, out_rows, lse_rows, block.causal, scale
                )
            )
        if len(parts) == 1:
            return parts[0]
        dqs, dks, dvs = zip(*parts, strict=True)
        return torch.cat(dqs, dim=2), torch.cat(dks, dim=2), torch.cat(dvs, dim=2)


def _cpu_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> OutAndLse:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    num_earlier = k.shape[2] - q.shape[2] if causal else 0
    if num_earlier == 0:
        return op(q, k, v, 0.0, causal, scale=scale)
    q, k, v = (t.to(accumulate_dtype(t.dtype)) for t in (q, k, v))
    out, lse = op(q, k[:, :, num_earlier:], v[:, :, num_earlier:], 0.0, True, scale=scale)
    merge_(out, lse, *op(q, k[:, :, :num_earlier], v[:, :, :num_earlier], 0.0, False, scale=scale))
    return out, lse


def _cpu_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    causal: bool,
    scale: float,
) -> Gradients:
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    lse = lse.contiguous()
    num_earlier = k.shape[2] - q.shape[2] if causal else 0
    if num_earlier == 0:
        return op(grad_out, q, k, v, out, lse, 0.0, causal, scale=scale)
    grad_out, q, out, k, v = (t.to(accumulate_dtype(t.dtype)) for t in (grad_out, q, out, k, v))
    near_k, near_v = k[:, :, num_earlier:], v[:, :, num_earlier:]
    far_k, far_v = k[:, :, :num_earlier], v[:, :, :num_earlier]
    near = op(grad_out, q, near_k, near_v, out, lse, 0.0, True, scale=scale)
    far = op(grad_out, q, far_k, far_v, out, lse, 0.0, False, scale=scale)
    dk, dv = (torch.cat([f, n], dim=2) for f, n in zip(far[1:], near[1:], strict=True))
    return near[0] + far[0], dk, dv
