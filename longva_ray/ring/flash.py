"""What CUDA flash kernels share: the rows that they take, and the offsets of packed segments.

    (B, N, S, H)  ->  (B, S, N, H) for a block of one segment, which is one dense call
                  ->  (B*S, N, H) and offsets for several segments, one variable-length call

The kernels align a causal mask to the last row and the last key, so no call needs a mask tensor.
Offsets live on the device. They are built once for each layout and kept.

Head dimensions must be multiples of 8 up to 256, and the dtype bfloat16 or float16. What it does
not do: float32 on CUDA.

On a CPU, tests check this packing against an emulation of what the operators document, and the
shapes on tensors without content. Only the tests marked `gpu` compare the operators themselves with
a reference. Shapes: B batch, N heads, S rows of the block, H head dimension.
"""

import abc
import functools
import itertools
from typing import NamedTuple

import torch

from longva_ray.ring.kernel import Gradients, OutAndLse, Saved
from longva_ray.ring.plan import Block


class Packed(NamedTuple):
    """Segments one after another: int32 offsets on the device, and the longest segment."""

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    max_queries: int
    max_keys: int


class FlashKernel(abc.ABC):
    """From (B, N, S, H) to the rows that a flash kernel takes, and back."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Names what runs."""

    @abc.abstractmethod
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
        """(B, S, N, H) -> out, lse (B, N, S); or packed rows (S, N, H) -> out, lse (N, S)."""

    @abc.abstractmethod
    def call_backward(
        self,
        grad_out: torch.Tensor,
        saved: Saved,
        packed: Packed | None,
        *,
        causal: bool,
        scale: float,
    ) -> Gradients:
        """Gradients in the layout of q, k and v."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        check_input(q)
        batch, packed = q.shape[0], _packed(block, q.shape[0], q.device)
        q, k, v = (_to_rows(t, packed) for t in (q, k, v))
        out, lse = self.call_forward(q, k, v, packed, causal=block.causal, scale=scale)
        if packed is not None:
            lse = lse.reshape(lse.shape[0], batch, -1).transpose(0, 1)
        return _from_rows(out, batch, packed), lse

    def backward(
        self, grad_out: torch.Tensor, saved: Saved, block: Block, *, scale: float
    ) -> Gradients:
        batch, packed = grad_out.shape[0], _packed(block, grad_out.shape[0], grad_out.device)
        grad_out, q, k, v, out = (_to_rows(t, packed) for t in (grad_out, *saved[:4]))
        lse = saved.lse if packed is None else saved.lse.transpose(0, 1).flatten(1)
        # A sliced lse must be made contiguous: the backward operators read it with the strides of a
        # fresh one.
        rows = Saved(q, k, v, out, lse.contiguous())
        grads = self.call_backward(grad_out, rows, packed, causal=block.causal, scale=scale)
        dq, dk, dv = (_from_rows(grad, batch, packed) for grad in grads)
        return dq, dk, dv


def _packed(block: Block, batch: int, device: torch.device) -> Packed | None:
    """None for a block of one segment, which a dense call computes."""
    if len(block.query_starts) == 2:
        return None
    return _packed_offsets(block.query_starts, block.key_starts, batch, device)


@functools.lru_cache(maxsize=64)
def _packed_offsets(
    query_starts: tuple[int, ...], key_starts: tuple[int, ...], batch: int, device: torch.device
) -> Packed:
    """Offsets for `batch` rows of the same segments, one row after another."""

    def repeat(starts: tuple[int, ...]) -> torch.Tensor:
        row = torch.tensor(starts, dtype=torch.int32)
        shifts = torch.arange(batch, dtype=torch.int32)[:, None] * starts[-1]
        return torch.cat([row[:1], (row[1:] + shifts).flatten()]).to(device)

    def longest(starts: tuple[int, ...]) -> int:
        return max(stop - start for start, stop in itertools.pairwise(starts))

    # Kept beyond this call, so these must not be inference tensors.
    with torch.inference_mode(False):
        return Packed(
            repeat(query_starts), repeat(key_starts), longest(query_starts), longest(key_starts)
        )


def _to_rows(x_BNSH: torch.Tensor, packed: Packed | None) -> torch.Tensor:
    """(B, N, S, H) -> (B, S, N, H), or packed (B*S, N, H)."""
    x_BSNH = x_BNSH.transpose(1, 2)
    return x_BSNH if packed is None else x_BSNH.flatten(0, 1)


def _from_rows(x: torch.Tensor, batch: int, packed: Packed | None) -> torch.Tensor:
    """The inverse of `_to_rows`."""
    x_BSNH = x if packed is None else x.reshape(batch, -1, *x.shape[1:])
    return x_BSNH.transpose(1, 2)


def check_input(q_BNSH: torch.Tensor) -> None:
    """Raise ValueError for queries that no kernel on CUDA takes."""
    if q_BNSH.dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"flash kernels on CUDA take bfloat16 or float16, got {q_BNSH.dtype}; load the model "
            "in bfloat16"
        )
    head_dim = q_BNSH.shape[-1]
    if head_dim % 8 != 0 or head_dim > 256:
        raise ValueError(
            "flash kernels on CUDA take head dimensions that are multiples of 8 up to 256, got "
            f"{head_dim}"
        )
