"""The local kernel: query rows against key rows -> attention output and its log-sum-exp.

    forward    q (B, N, S, H), k and v (B, M, S', H)  ->  out (B, N, S, H), lse (B, N, S)
    backward   the same, grad_out, and the GLOBAL out and lse  ->  dq, dk, dv of this block alone

M divides N (grouped-query attention) and keys are never repeated. Because softmax weights are
exp(score - lse), a block that is handed the log-sum-exp over all keys of the sequence returns its
exact share of the gradients; shares only add up. Two partial results over different keys are merged
with `merge_`.

One signature, three implementations: torch's CPU flash op (float64, float32, bfloat16, float16),
torch's CUDA flash op and the flash-attn package (both in `flash`, bfloat16 and float16 only).
`choose_kernel` decides once a process and logs it.

What it does not do: dropout, sliding windows, any mask other than the causal ones that `plan.Block`
describes. Shapes: B batch, N query heads, M key heads, S rows of the block, H head dimension.
"""

import functools
import logging
from typing import Literal, Protocol, TypeAlias

import torch

from longva_ray.ring.plan import Block

logger = logging.getLogger(__name__)

KernelName: TypeAlias = Literal["aten", "flash-attn"]
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


@functools.cache
def choose_kernel(device_type: str, name: KernelName | None = None) -> Kernel:
    """The kernel for "cpu" or "cuda" tensors, decided once a process; `name` overrides the choice.

    On CUDA the flash-attn package is taken when it can be imported, else torch's own flash op.
    Raises ValueError for a device without a kernel, or a named kernel that this machine cannot run.
    """
    kernel = _cpu_kernel(name) if device_type == "cpu" else _cuda_kernel(device_type, name)
    logger.info("attention on %s: block kernel %s", device_type, kernel.name)
    return kernel


def _cpu_kernel(name: KernelName | None) -> Kernel:
    if name == "flash-attn":
        raise ValueError("kernel 'flash-attn' needs CUDA tensors, got CPU tensors; use 'aten'")
    return AtenCpu()


def _cuda_kernel(device_type: str, name: KernelName | None) -> Kernel:
    from longva_ray.ring.flash import AtenCuda, FlashAttn

    if device_type != "cuda":
        raise ValueError(f"ring attention runs on 'cpu' and 'cuda' tensors, got {device_type!r}")
    if name == "aten":
        return AtenCuda()
    try:
        return FlashAttn.load()
    except ImportError as error:
        if name == "flash-attn":
            raise ValueError(
                f"kernel 'flash-attn' cannot be imported ({error}); pip install 'longva-ray[gpu]', "
                "or use kernel 'aten', which ships with torch"
            ) from error
        logger.info("flash-attn cannot be imported (%s)", error)
        return AtenCuda()
