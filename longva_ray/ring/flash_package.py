"""The attention kernel of the flash-attn package, version 2 (extra `gpu`).

The package's public functions take no log-sum-exp in their backward pass, and a ring has to pass
one in, so the functions underneath are called. `FORWARD` and `BACKWARD` name all that are used.
They may change with any release; where the package is installed, a test compares their parameters
with what is passed.
"""

from typing import Any

import torch

from longva_ray.ring.flash import FlashKernel, Packed
from longva_ray.ring.kernel import Gradients, OutAndLse, Saved

FORWARD = ("_wrapped_flash_attn_forward", "_wrapped_flash_attn_varlen_forward")
BACKWARD = ("_wrapped_flash_attn_backward", "_wrapped_flash_attn_varlen_backward")
"""Dense and variable-length, in `flash_attn.flash_attn_interface`."""


class FlashPackage(FlashKernel):
    """The flash-attn package."""

    name = "flash-attn"

    def __init__(self, interface: Any) -> None:
        self._interface = interface

    @classmethod
    def load(cls) -> "FlashPackage":
        """Raises ImportError when the package is missing or was built for another torch."""
        from flash_attn import flash_attn_interface

        return cls(flash_attn_interface)

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
        op = getattr(self._interface, FORWARD[packed is not None])
        out, lse, *_ = op(q, k, v, return_softmax=False, **_arguments(packed, causal, scale))
        return out, lse

    def call_backward(
        self,
        grad_out: torch.Tensor,
        saved: Saved,
        packed: Packed | None,
        *,
        causal: bool,
        scale: float,
    ) -> Gradients:
        op = getattr(self._interface, BACKWARD[packed is not None])
        dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in saved[:3])
        op(
            grad_out,
            *saved,
            dq,
            dk,
            dv,
            deterministic=False,
            **_arguments(packed, causal, scale),
        )
        return dq, dk, dv


def _arguments(packed: Packed | None, causal: bool, scale: float) -> dict[str, Any]:
    """What forward and backward have in common, under the package's names."""
    names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
    return {
        **({} if packed is None else dict(zip(names, packed, strict=True))),
        "dropout_p": 0.0,
        "softmax_scale": scale,
        "causal": causal,
        "window_size_left": -1,
        "window_size_right": -1,
        "softcap": 0.0,
        "alibi_slopes": None,
    }
