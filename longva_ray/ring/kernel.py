"""What every attention kernel offers, and how results over different keys are merged.

    forward    q (B, N, S, H), k and v (B, M, S', H)  ->  out (B, N, S, H), lse (B, N, S)
    backward   grad_out, and `Saved` with out and lse over ALL keys  ->  dq, dk, dv of this block

M divides N (grouped-query attention), and keys are never repeated. Softmax weights are
exp(score - lse). So a block that is given the log-sum-exp over all keys of the sequence returns its
exact share of the gradients, and the shares only have to be added.

What no kernel does: dropout, sliding windows, any mask other than the causal ones that `plan.Block`
describes. Shapes: B batch, N query heads, M key heads, S rows of the block, H head dimension.
"""

from typing import NamedTuple, Protocol, TypeAlias

import torch

from longva_ray.ring.plan import Block

OutAndLse: TypeAlias = tuple[torch.Tensor, torch.Tensor]

Gradients: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Saved(NamedTuple):
    """What a backward pass works from: the inputs of the forward pass and its results."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor

    def cut(self, queries: slice, keys: slice) -> "Saved":
        """Some query rows and some key rows, without a copy."""
        q, out, lse = (t[:, :, queries] for t in (self.q, self.out, self.lse))
        return Saved(q, self.k[:, :, keys], self.v[:, :, keys], out, lse)


class CannotRun(Exception):
    """A kernel that this machine or this version of torch cannot run, and why."""


class Kernel(Protocol):
    """One q-block x kv-block of attention. All tensors hold exactly the rows of the block."""

    @property
    def name(self) -> str:
        """Names what runs, not what was asked for."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        """Output in the dtype of `q` (or a finer one) and natural-log lse in at least float32."""

    def backward(
        self, grad_out: torch.Tensor, saved: Saved, block: Block, *, scale: float
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
    new log-sum-exp is a - logsigmoid(a - b). No exponential of a log-sum-exp is ever taken, so gaps
    of any size stay finite. Source:
    https://github.com/zhuzilin/ring-flash-attention/pull/34#issuecomment-2076126795.
    """
    weight_BNS = torch.sigmoid(more_lse - lse_BNS)
    out_BNSH.lerp_(more_out.to(out_BNSH.dtype), weight_BNS[..., None])
    lse_BNS.sub_(torch.nn.functional.logsigmoid(lse_BNS - more_lse))
