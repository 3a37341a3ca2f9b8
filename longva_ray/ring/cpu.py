"""The attention kernel for CPUs: torch's own flash attention, in float64, float32 or bfloat16.

Shapes as in `kernel`.
"""

import torch

from longva_ray.ring.aten import cpu_flash, cpu_flash_backward
from longva_ray.ring.kernel import Gradients, OutAndLse, Saved, accumulate_dtype, merge_
from longva_ray.ring.plan import Block


class AtenCpu:
    """Torch's CPU flash operator, segment by segment.

    When there are more keys than queries, its causal mask is aligned to the first row and the first
    key (the CUDA operators align it to the last ones). So it is only asked for squares and for
    unmasked rectangles. A causal segment that follows earlier keys is computed as one of each, in
    the accumulation dtype.
    """

    name = "aten (CPU flash)"

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        results = [
            _forward(q[:, :, rows], k[:, :, keys], v[:, :, keys], block.causal, scale)
            for rows, keys in block.segments()
        ]
        if len(results) == 1:
            return results[0]
        outs, lses = zip(*results, strict=True)
        return torch.cat(outs, dim=2), torch.cat(lses, dim=2)

    def backward(
        self, grad_out: torch.Tensor, saved: Saved, block: Block, *, scale: float
    ) -> Gradients:
        results = [
            _backward(grad_out[:, :, rows], saved.cut(rows, keys), block.causal, scale)
            for rows, keys in block.segments()
        ]
        if len(results) == 1:
            return results[0]
        dq, dk, dv = (torch.cat(grads, dim=2) for grads in zip(*results, strict=True))
        return dq, dk, dv


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float
) -> OutAndLse:
    far, near = _keys_before_the_square(q, k, causal)
    if far is None:
        return cpu_flash(q, k, v, causal=causal, scale=scale)
    q, k, v = (t.to(accumulate_dtype(t.dtype)) for t in (q, k, v))
    out, lse = cpu_flash(q, k[:, :, near], v[:, :, near], causal=True, scale=scale)
    merge_(out, lse, *cpu_flash(q, k[:, :, far], v[:, :, far], causal=False, scale=scale))
    return out, lse


def _backward(grad_out: torch.Tensor, saved: Saved, causal: bool, scale: float) -> Gradients:
    saved = saved._replace(lse=saved.lse.contiguous())
    far, near = _keys_before_the_square(saved.q, saved.k, causal)
    if far is None:
        return cpu_flash_backward(grad_out, saved, causal=causal, scale=scale)
    grad_out, q, k, v, out = (t.to(accumulate_dtype(t.dtype)) for t in (grad_out, *saved[:4]))
    saved, rows = Saved(q, k, v, out, saved.lse), slice(None)
    near_grads = cpu_flash_backward(grad_out, saved.cut(rows, near), causal=True, scale=scale)
    far_grads = cpu_flash_backward(grad_out, saved.cut(rows, far), causal=False, scale=scale)
    dk, dv = (torch.cat([f, n], dim=2) for f, n in zip(far_grads[1:], near_grads[1:], strict=True))
    return near_grads[0] + far_grads[0], dk, dv


def _keys_before_the_square(
    q: torch.Tensor, k: torch.Tensor, causal: bool
) -> tuple[slice | None, slice]:
    """The keys that every query sees (None: there are none), and those of the causal square."""
    num_earlier = k.shape[2] - q.shape[2] if causal else 0
    return (slice(0, num_earlier) if num_earlier else None), slice(num_earlier, None)
