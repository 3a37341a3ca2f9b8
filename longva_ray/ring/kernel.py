"""What every attention kernel of the ring offers, and how partial results merge.

Shapes: B batch, N heads, S sequence, H head dimension.
"""

from typing import Protocol, TypeAlias

import torch

from longva_ray.ring.plan import Block

OutAndLse: TypeAlias = tuple[torch.Tensor, torch.Tensor]


Gradients: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Kernel(Protocol):
    """One q-block x kv-block of attention. All tensors hold exactly the rows of the block."""

    name: str

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        """Output in the dtype of `q` (or a finer one) and natural-log lse in at least float32."""

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
        """This block's share of dq, dk, dv, given output and lse over all keys of the sequence.

        Also in the dtype of `q` or a finer one.
        """


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over blocks are kept in: at least float32, and float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def merge_(
    out_BNSH: torch.Tensor, lse_BNS: torch.Tensor, more_out: torch.Tensor, more_lse: torch.Tensor
) -> None:
    """Fold attention over further keys into `out` and `lse`, in place.

    With a = lse and b = more_lse the new output is out + sigmoid(b - a) (more_out - out) and the
    new log-sum-exp is a - logsigmoid(a - b): no exponential of a log-sum-exp is ever taken, so gaps
    of any size stay finite. Source:
    https://github.com/zhuzilin/ring-flash-attention/pull/34#issuecomment-2076126795.
    """
    weight_BNS = torch.sigmoid(more_lse - lse_BNS)
    out_BNSH.lerp_(more_out.to(out_BNSH.dtype), weight_BNS[..., None])
    lse_BNS.sub_(torch.nn.functional.logsigmoid(lse_BNS - more_lse))
