"""The attention kernel for CUDA that ships with torch: its flash-attention 2 operator.

`torch.nn.attention.activate_flash_attention_impl` replaces the operator in place by version 3 or 4.
"""

import torch

from longva_ray.ring.aten import Offsets, cuda_flash, cuda_flash_backward
from longva_ray.ring.flash import FlashKernel, Packed
from longva_ray.ring.kernel import Gradients, OutAndLse, Saved


class AtenCuda(FlashKernel):
    """Torch's CUDA flash operator."""

    name = "aten (CUDA flash)"

    def call_forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed | None,
        *,
        causal: bool,
        scale: float,
    ) -> OutAndLse:
        return cuda_flash(q, k, v, _offsets(q, k, packed), causal=causal, scale=scale)

    def call_backward(
        self,
        grad_out: torch.Tensor,
        saved: Saved,
        packed: Packed | None,
        *,
        causal: bool,
        scale: float,
    ) -> Gradients:
        offsets = _offsets(saved.q, saved.k, packed)
        return cuda_flash_backward(grad_out, saved, offsets, causal=causal, scale=scale)


def _offsets(q: torch.Tensor, k: torch.Tensor, packed: Packed | None) -> Offsets:
    return packed or (None, None, q.shape[1], k.shape[1])
