"""The ring schedule: keys and values travel from rank to rank while the kernels work.

    step i on rank r     compute with the keys of rank r-i, while they are on their way to r+1
                         and those of rank r-i-1 are on their way here
    backward             the same; dk and dv travel one step later, gather a share on every rank,
                         and end where they began

W steps of one kernel each. Keys and values travel without repeated heads, in their own dtype; dk
and dv travel in at least float32. Both are double buffered, so a rank holds two shards of each
whatever W is. Every rank issues the same transfers in the same order, none depends on data, and all
go through `batch_isend_irecv`, which cannot deadlock on the order of send and receive.

Trade-off: partial outputs are rounded to the dtype of the kernel before they are merged in float32,
so there are W roundings. `all_gather` has one, and needs more memory.

Shapes: B batch, N query heads, M key heads, L local tokens, H head dimension.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist

from longva_ray.ring.kernel import Gradients, Kernel, OutAndLse, Saved, accumulate_dtype, merge_
from longva_ray.ring.plan import Block

Blocks = tuple[Block | None, ...]

# Message tags, so that keys and their gradients on the way between the same two ranks are never
# confused (gloo matches by tag and order, NCCL by order alone).
_KEYS, _GRADIENTS = 1, 2


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    blocks: Blocks,
    group: dist.ProcessGroup,
    kernel: Kernel,
    scale: float,
) -> OutAndLse:
    """q (B, N, L, H), k and v (B, M, L, H) -> out in the accumulation dtype, lse (B, N, L)."""
    out_BNLH: torch.Tensor | None = None
    for block, (keys, values) in zip(blocks, _rotate(k, v, group), strict=True):
        if block is None:
            continue
        rows = block.queries
        part, part_lse = kernel.forward(
            q[:, :, rows], keys[:, :, block.keys], values[:, :, block.keys], block, scale=scale
        )
        if out_BNLH is None:  # the first step meets the local keys and covers every row
            out_BNLH, lse_BNL = part.to(accumulate_dtype(q.dtype)), part_lse
        else:
            merge_(out_BNLH[:, :, rows], lse_BNL[:, :, rows], part, part_lse)
    assert out_BNLH is not None
    return out_BNLH, lse_BNL


def backward(
    grad_out: torch.Tensor,
    saved: Saved,
    *,
    blocks: Blocks,
    group: dist.ProcessGroup,
    kernel: Kernel,
    scale: float,
) -> Gradients:
    """Gradients of q, k and v in the accumulation dtype."""
    dq_BNLH = torch.zeros_like(saved.q, dtype=accumulate_dtype(saved.q.dtype))
    travelling = _TravellingGradients(saved.k, group)
    for block, (keys, values) in zip(blocks, _rotate(saved.k, saved.v, group), strict=True):
        shares: Gradients | None = None
        if block is not None:
            at_hand = saved._replace(k=keys, v=values).cut(block.queries, block.keys)
            shares = kernel.backward(grad_out[:, :, block.queries], at_hand, block, scale=scale)
        dkv_2BMLH = travelling.arrive()
        if block is not None and shares is not None:
            dq_BNLH[:, :, block.queries] += shares[0]
            dkv_2BMLH[0, :, :, block.keys] += shares[1]
            dkv_2BMLH[1, :, :, block.keys] += shares[2]
        travelling.leave()
    dk, dv = travelling.arrive()
    return dq_BNLH, dk, dv


def _rotate(
    k: torch.Tensor, v: torch.Tensor, group: dist.ProcessGroup
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield local keys and values, then each predecessor's; the next ones travel meanwhile."""
    size = dist.get_world_size(group)
    kv = torch.stack((k, v))
    spare = torch.empty_like(kv)
    for step in range(size):
        last = step == size - 1
        transfers = [] if last else _exchange(kv, spare, group, tag=_KEYS)
        yield kv[0], kv[1]
        for transfer in transfers:
            transfer.wait()
        kv, spare = spare, kv


class _TravellingGradients:
    """dk and dv of the keys at hand: they arrive, get a share, and leave for the next rank."""

    def __init__(self, k_BMLH: torch.Tensor, group: dist.ProcessGroup) -> None:
        dtype = accumulate_dtype(k_BMLH.dtype)
        self._here = k_BMLH.new_zeros((2, *k_BMLH.shape), dtype=dtype)
        self._group = group
        self._spare = torch.empty_like(self._here)
        self._transfers: list[dist.Work] = []

    def arrive(self) -> torch.Tensor:
        """(2, B, M, L, H): zeros at first, later what the previous rank passed on."""
        if self._transfers:
            for transfer in self._transfers:
                transfer.wait()
            self._here, self._spare = self._spare, self._here
            self._transfers = []
        return self._here

    def leave(self) -> None:
        self._transfers = _exchange(self._here, self._spare, self._group, tag=_GRADIENTS)


def _exchange(
    outgoing: torch.Tensor, incoming: torch.Tensor, group: dist.ProcessGroup, *, tag: int
) -> list[dist.Work]:
    """Start sending to the next rank of the ring and receiving from the previous one."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    return dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, outgoing, group=group, group_peer=(rank + 1) % size, tag=tag),
            dist.P2POp(dist.irecv, incoming, group=group, group_peer=(rank - 1) % size, tag=tag),
        ]
    )
