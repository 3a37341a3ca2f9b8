"""The attention kernel for CUDA that ships with torch: its flash operator.

It is FlashAttention 2, unless another version was put in its place in this process
(`torch.nn.attention.activate_flash_attention_impl`). `name` says which one runs.
"""

import torch
from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl

from longva_ray.ring.aten import Offsets, cuda_flash, cuda_flash_backward
from longva_ray.ring.flash import FlashKernel, Packed
from longva_ray.ring.kernel import CannotRun, Gradients, OutAndLse, Saved


class AtenCuda(FlashKernel):
    """Torch's CUDA flash operator."""

    @classmethod
    def version_4(cls) -> "AtenCuda":
        """With FlashAttention 4 (package flash-attn-4) in its place, for the whole process.

        Raises CannotRun for a torch that would fall back to version 2 without a word, ImportError
        when the package is missing.
        """
        major, minor = (int(part) for part in torch.__version__.split(".")[:2])
        if (major, minor) < (2, 13):
            raise CannotRun(f"it wants torch 2.13, got {torch.__version__}")
        activate_flash_attention_impl("FA4")
        return cls()

    @property
    def name(self) -> str:
        return f"aten (CUDA flash{_version()})"

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


def _version() -> str:
    other = current_flash_attention_impl()
    return "" if other is None else f", {other}"
