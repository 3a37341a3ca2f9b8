"""Exact, differentiable causal attention over a sequence that is spread over a ring of processes.

    q (B, N, L, H), k and v (B, M, L, H) on every rank  ->  out (B, N, L, H) on every rank

Equal to one process attending over the whole sequence, document by document. Three schedules with
one signature, for W ranks:

    ring               point to point, overlapped with the kernels; memory does not grow with W
    all_gather         all keys and values together: one rounding, few collectives, more memory
    ring_flash_attn    the ring-flash-attn package (extra `gpu`): one document without padding only

Log-sum-exps, partial outputs and travelling gradients are kept in at least float32; float64 stays
float64.

What it does not do: dropout, padding masks, sliding windows, a KV cache, double backward. Shapes: B
batch, N query heads, M key heads (M divides N), L local tokens, H head dimension.

Source: Ring Attention, https://arxiv.org/abs/2310.01889; section 3.1 of the LongVA paper.
"""

import dataclasses
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from longva_ray.ring import all_gather, point_to_point
from longva_ray.ring.choose import KernelName, choose_kernel
from longva_ray.ring.keep import kept
from longva_ray.ring.kernel import Gradients, OutAndLse, Saved
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.ring.plan import Block, gather_blocks, ring_blocks
from longva_ray.ring.zigzag_package import package_attention

Schedule: TypeAlias = Literal["ring", "all_gather", "ring_flash_attn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
    """How one batch is spread over processes, and how its attention is computed.

    Making one costs nothing: make one for each batch.

    Raises ValueError when the layout was made for another number of ranks than the group has, or
    for an unknown schedule.
    """

    layout: ZigzagLayout
    group: dist.ProcessGroup | None = None
    """The ranks of the ring, in ring order; None is a ring of this process alone."""
    schedule: Schedule = "ring"
    kernel: KernelName | None = None
    """Block kernel; None takes the best one that can be imported."""

    def __post_init__(self) -> None:
        size = 1 if self.group is None else dist.get_world_size(self.group)
        if size != self.layout.world_size:
            raise ValueError(
                f"the layout divides the sequence over {self.layout.world_size} ranks but the "
                f"process group has {size}; build the layout with world_size = the size of the "
                "ring's group"
            )
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"unknown schedule {self.schedule!r}; choose one of {get_args(Schedule)}"
            )

    @property
    def rank(self) -> int:
        """This process's place in the ring."""
        return 0 if self.group is None else dist.get_rank(self.group)


def ring_attention(
    q_BNLH: torch.Tensor,
    k_BMLH: torch.Tensor,
    v_BMLH: torch.Tensor,
    ring: Ring,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of the local queries over the whole sequence, (B, N, L, H).

    Every rank of the ring must call it.

    `scale` multiplies the scores; None is 1/sqrt(H). Rotary embeddings must already be applied,
    with the positions of `ZigzagLayout.positions`. Raises ValueError for tensors that do not fit
    the layout or each other, and for a schedule or kernel that cannot compute this input here.
    """
    _check(q_BNLH, k_BMLH, v_BMLH, ring.layout)
    scale = q_BNLH.shape[-1] ** -0.5 if scale is None else scale
    q_BNLH, k_BMLH, v_BMLH = (_dense_rows(t) for t in (q_BNLH, k_BMLH, v_BMLH))
    if ring.schedule == "ring_flash_attn":
        return package_attention(q_BNLH, k_BMLH, v_BMLH, ring.layout, ring.group, scale=scale)
    out: torch.Tensor = _RingAttention.apply(q_BNLH, k_BMLH, v_BMLH, ring, scale)
    return out


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ring: Ring, scale: float
    ) -> torch.Tensor:
        def compute() -> OutAndLse:
            out, lse = _forward(q, k, v, ring, scale)
            return out.to(q.dtype), lse

        out, lse = kept(compute)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.ring, ctx.scale = ring, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = Saved(*ctx.saved_tensors)
        dq, dk, dv = _backward(_dense_rows(grad_out), saved, ctx.ring, ctx.scale)
        return dq.to(saved.q.dtype), dk.to(saved.k.dtype), dv.to(saved.v.dtype), None, None


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ring: Ring, scale: float
) -> OutAndLse:
    kernel = choose_kernel(q.device.type, ring.kernel)
    if ring.layout.world_size == 1:
        return kernel.forward(q, k, v, _whole(ring.layout), scale=scale)
    assert ring.group is not None
    if ring.schedule == "ring":
        steps = ring_blocks(ring.layout, ring.rank)
        return point_to_point.forward(
            q, k, v, blocks=steps, group=ring.group, kernel=kernel, scale=scale
        )
    calls = gather_blocks(ring.layout, ring.rank)
    return all_gather.forward(q, k, v, blocks=calls, group=ring.group, kernel=kernel, scale=scale)


def _backward(grad_out: torch.Tensor, saved: Saved, ring: Ring, scale: float) -> Gradients:
    kernel = choose_kernel(grad_out.device.type, ring.kernel)
    if ring.layout.world_size == 1:
        return kernel.backward(grad_out, saved, _whole(ring.layout), scale=scale)
    assert ring.group is not None
    if ring.schedule == "ring":
        steps = ring_blocks(ring.layout, ring.rank)
        return point_to_point.backward(
            grad_out, saved, blocks=steps, group=ring.group, kernel=kernel, scale=scale
        )
    return all_gather.backward(
        grad_out,
        saved,
        blocks=gather_blocks(ring.layout, ring.rank),
        layout=ring.layout,
        group=ring.group,
        kernel=kernel,
        scale=scale,
    )


def _whole(layout: ZigzagLayout) -> Block:
    """The one block of a ring of one process. Nothing is merged or added up, so neither schedule is
    needed, nor a sum in a finer dtype."""
    (block,) = ring_blocks(layout, 0)
    assert block is not None
    return block


def _dense_rows(x: torch.Tensor) -> torch.Tensor:
    """`x` with the entries of each head side by side: flash kernels misread any other strides."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: ZigzagLayout) -> None:
    """Raise ValueError unless the three tensors fit the layout and each other."""
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if k.shape != v.shape or q.dim() != 4 or k.dim() != 4:
        raise ValueError(f"want q (B, N, L, H) and k, v (B, M, L, H), got {shapes}")
    if (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]) or q.shape[1] % k.shape[1] != 0:
        raise ValueError(
            "q and k must agree in batch and head dimension, and key heads must divide query "
            f"heads, got {shapes}"
        )
    if not q.shape[2] == k.shape[2] == layout.local_tokens:
        raise ValueError(
            f"the layout gives every rank {layout.local_tokens} tokens, got {shapes}; cut the "
            "sequence with ZigzagLayout.split, and run without a KV cache (use_cache=False)"
        )
    if not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device:
        raise ValueError(
            "q, k and v must share dtype and device, got "
            f"{[(t.dtype, str(t.device)) for t in (q, k, v)]}"
        )
