"""The attention kernel for CPUs: torch's own flash attention, in float64, float32 or bfloat16.

Shapes as in `kernel`.
"""

import torch

from longva_ray.ring.aten import cpu_flash, cpu_flash_backward
from longva_ray.ring.kernel import Gradients, OutAndLse, Saved, accumulate_dtype
from longva_ray.ring.plan import Block
from longva_ray.ring.square import attend, attend_backward, keys_before_the_square


class AtenCpu:
    """Torch's CPU flash operator, segment by segment.

    When there are more keys than queries, its causal mask is aligned to the first row and the first
    key (the CUDA operators align it to the last ones). So a causal segment that follows earlier
    keys is computed in two calls (`square`), in the accumulation dtype.
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
    q, k, v = _exact_if_merged((q, k, v), causal=causal)
    return attend(cpu_flash, q, k, v, causal=causal, scale=scale)


def _backward(grad_out: torch.Tensor, saved: Saved, causal: bool, scale: float) -> Gradients:
    q, k, v, out, grad_out = _exact_if_merged((*saved[:4], grad_out), causal=causal)
    saved = Saved(q, k, v, out, saved.lse.contiguous())
    return attend_backward(cpu_flash_backward, grad_out, saved, causal=causal, scale=scale)


def _exact_if_merged(
    tensors: tuple[torch.Tensor, ...], *, causal: bool
) -> tuple[torch.Tensor, ...]:
    """In the accumulation dtype where two calls make one result; the first two are q and k."""
    far, _ = keys_before_the_square(tensors[0], tensors[1], causal)
    return tensors if far is None else tuple(t.to(accumulate_dtype(t.dtype)) for t in tensors)
