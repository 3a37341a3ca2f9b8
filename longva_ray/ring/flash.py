"""CUDA kernels behind the signature of `block.Kernel`: torch's flash op, the flash-attn package.

Both speak the layout (B, S, N, H), align a causal mask to the last row and last key, and take
packed segments as rows (S, N, H) with offsets. So a block of one segment is one dense call, a block
of several is one variable-length call, and neither needs a mask. Offsets live on the device; they
are built once for each layout and kept.

Head dimensions must be multiples of 8 up to 256, the dtype bfloat16 or float16. What it does not
do: float32 on CUDA.

HONESTY: written from the operator schemas of torch 2.13 and the signatures of flash-attn 2.8. The
packing around the operators is tested on CPU against an emulation of the documented semantics, and
the shapes under fake CUDA tensors; the operators themselves are compared with a reference only by
the tests marked `gpu`.
"""

import abc
import functools
import itertools
from typing import Any, NamedTuple

import torch

from longva_ray.ring.kernel import Gradients, OutAndLse
from longva_ray.ring.plan import Block


class Packed(NamedTuple):
    """Segments behind each other: int32 offsets on the device, and the longest segment."""

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    max_queries: int
    max_keys: int


class FlashLayoutKernel(abc.ABC):
    """What both CUDA kernels share: from (B, N, S, H) to the rows that they take, and back."""

    name: str

    @abc.abstractmethod
    def call_forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> OutAndLse:
        """(B, S, N, H) -> out, lse (B, N, S); or packed rows (S, N, H) -> out, lse (N, S)."""

    @abc.abstractmethod
    def call_backward(
        self,
        grad_out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        """Gradients in the layout of q, k and v."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: Block, *, scale: float
    ) -> OutAndLse:
        _check(q)
        batch, packed = q.shape[0], _packed(block, q.shape[0], q.device)
        q, k, v = (_to_rows(t, packed) for t in (q, k, v))
        out, lse = self.call_forward(q, k, v, packed, block.causal, scale)
        if packed is not None:
            lse = lse.reshape(lse.shape[0], batch, -1).transpose(0, 1)
        return _from_rows(out, batch, packed), lse

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
        batch, packed = q.shape[0], _packed(block, q.shape[0], q.device)
        grad_out, q, k, v, out = (_to_rows(t, packed) for t in (grad_out, q, k, v, out))
        if packed is not None:
            lse = lse.transpose(0, 1).flatten(1)
        # A sliced lse must be made contiguous: the backward operators read it with the strides of a
        # fresh one.
        lse = lse.contiguous()
        grads = self.call_backward(grad_out, q, k, v, out, lse, packed, block.causal, scale)
        dq, dk, dv = (_from_rows(grad, batch, packed) for grad in grads)
        return dq, dk, dv


class AtenCuda(FlashLayoutKernel):
    """The flash-attention 2 operator inside torch.

    `torch.nn.attention.activate_flash_attention_impl` replaces it in place by version 3 or 4.
    """

    name = "aten (CUDA flash)"

    def call_forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> OutAndLse:
        offsets = packed or (None, None, q.shape[1], k.shape[1])
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, *offsets, 0.0, causal, False, scale=scale
        )
        return out, lse

    def call_backward(
        self,
        grad_out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        offsets = packed or (None, None, q.shape[1], k.shape[1])
        # The random state only matters with dropout, which is 0 here.
        rng_state = torch.zeros(2, dtype=torch.uint64, device=q.device)
        unused = torch.empty(0, device=q.device)
        return torch.ops.aten._flash_attention_backward(
            grad_out, q, k, v, out, lse, *offsets, 0.0, causal, rng_state, unused, scale=scale
        )


class FlashAttn(FlashLayoutKernel):
    """The flash-attn package (version 2)."""

    name = "flash-attn"

    def __init__(self, interface: Any) -> None:
        self._interface = interface

    @classmethod
    def load(cls) -> "FlashAttn":
        """Raises ImportError when the package is missing or was built for another torch."""
        from flash_attn import flash_attn_interface

        return cls(flash_attn_interface)

    def call_forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> OutAndLse:
        op = (
            "_wrapped_flash_attn_forward"
            if packed is None
            else "_wrapped_flash_attn_varlen_forward"
        )
        out, lse, *_ = getattr(self._interface, op)(
            q,
            k,
            v,
            **_offset_arguments(packed),
            dropout_p=0.0,
            softmax_scale=scale,
            causal=causal,
            window_size_left=-1,
            window_size_right=-1,
            softcap=0.0,
            alibi_slopes=None,
            return_softmax=False,
        )
        return out, lse

    def call_backward(
        self,
        grad_out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        packed: Packed | None,
        causal: bool,
        scale: float,
    ) -> Gradients:
        op = (
            "_wrapped_flash_attn_backward"
            if packed is None
            else "_wrapped_flash_attn_varlen_backward"
        )
        dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        getattr(self._interface, op)(
            grad_out,
            q,
            k,
            v,
            out,
            lse,
            dq,
            dk,
            dv,
            **_offset_arguments(packed),
            dropout_p=0.0,
            softmax_scale=scale,
            causal=causal,
            window_size_left=-1,
            window_size_right=-1,
            softcap=0.0,
            alibi_slopes=None,
            deterministic=False,
        )
        return dq, dk, dv


def _offset_arguments(packed: Packed | None) -> dict[str, Any]:
    """`Packed` under the names of the flash-attn package."""
    if packed is None:
        return {}
    names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
    return dict(zip(names, packed, strict=True))


def _packed(block: Block, batch: int, device: torch.device) -> Packed | None:
    """None for a block of one segment, which a dense call computes."""
    if len(block.query_starts) == 2:
        return None
    return _packed_offsets(block.query_starts, block.key_starts, batch, device)


@functools.lru_cache(maxsize=64)
def _packed_offsets(
    query_starts: tuple[int, ...], key_starts: tuple[int, ...], batch: int, device: torch.device
) -> Packed:
    """Offsets for `batch` rows of the same segments, one row behind the other."""

    def repeat(starts: tuple[int, ...]) -> torch.Tensor:
        row = torch.tensor(starts, dtype=torch.int32)
        shifts = torch.arange(batch, dtype=torch.int32)[:, None] * starts[-1]
        return torch.cat([row[:1], (row[1:] + shifts).flatten()]).to(device)

    def longest(starts: tuple[int, ...]) -> int:
        return max(stop - start for start, stop in itertools.pairwise(starts))

    with torch.inference_mode(
        False
    ):  # kept beyond this call, so it must not be an inference tensor
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


def _check(q_BNSH: torch.Tensor) -> None:
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
