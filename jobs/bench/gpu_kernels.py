"""Rows of `gpu.py` about attention kernels and the loss.

Every kernel that runs here against torch's SDPA, dense and packed; what one rank of eight computes,
replayed without the other seven; the tiled loss; and each kernel against float64.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_sizes import Reading, Sizes
from timing import AttentionShape, alternate, attend, loss_step, sdpa, speedup
from torch.nn.attention import current_flash_attention_impl, restore_flash_attention_impl

from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.choose import KERNELS, KernelName, choose_kernel
from longva_ray.ring.kernel import Kernel, Saved, accumulate_dtype, merge_
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.ring.plan import Block, ring_blocks


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def usable(device: str) -> Iterator[tuple[KernelName, Kernel]]:
    """The kernels that run here, one after another.

    Version 4 of FlashAttention takes the place of torch's own for the whole process, so it is put
    there when its turn comes, and taken away after it.
    """
    for name in KERNELS[device]:
        choose_kernel.cache_clear()
        try:
            kernel = choose_kernel(device, name)
        except ValueError as error:
            print(f"left out: {error}")
            continue
        yield name, kernel
        if current_flash_attention_impl() is not None:
            restore_flash_attention_impl()
    choose_kernel.cache_clear()


def attention_flops(documents: tuple[int, ...], shape: AttentionShape, factor: float) -> float:
    """Causal; 1 for a forward pass, 3.5 with its backward pass."""
    return factor * 2 * sum(length**2 for length in documents) * shape.heads * shape.head_dim


def kernel_rows(sizes: Sizes) -> Iterator[Reading]:
    """TFLOP/s of each kernel, forward and with backward, beside SDPA; packed beside dense SDPA."""
    shape = sizes.attention
    whole = shape.inputs(sizes.dtype, sizes.device)
    settings: list[tuple[str, tuple[int, ...]]] = [("dense", (shape.tokens,))]
    settings += [(f"packed, {len(d)} documents", d) for d in sizes.packed]
    for name, kernel in usable(sizes.device):
        for how, documents in settings:
            tensors = [t[:, :, : sum(documents)].contiguous() for t in whole]
            ring = Ring(layout=ZigzagLayout(document_lengths=documents, world_size=1), kernel=name)
            ours = functools.partial(ring_attention, ring=ring)
            for what, factor, run in (("forward", 1.0, _forward), ("with backward", 3.5, attend)):
                runs: dict[str, Callable[[], Any]] = {
                    "sdpa": functools.partial(run, sdpa, whole),
                    "ours": functools.partial(run, ours, tensors),
                }
                seconds = alternate(runs, sizes.repeats, settle)
                rate = {
                    "sdpa": attention_flops((shape.tokens,), shape, factor),
                    "ours": attention_flops(documents, shape, factor),
                }
                tera = {k: rate[k] / min(seconds[k]) / 1e12 for k in runs}
                yield Reading(
                    what=f"{name} = {kernel.name}: {how}, {what}",
                    value=tera["ours"],
                    unit="TFLOP/s",
                    reference=f"SDPA, dense, {shape.tokens} tokens",
                    ratio=tera["ours"] / tera["sdpa"],
                )


def _forward(attention: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return attention(*tensors[:3])


def rank_rows(sizes: Sizes) -> Iterator[Reading]:
    """Kernels and merges of one rank of eight, beside an eighth of the whole sequence's."""
    for tokens in sizes.ring:
        whole = sizes.attention_of(tokens).inputs(sizes.dtype, sizes.device)
        alone = Ring(layout=ZigzagLayout(document_lengths=(tokens,), world_size=1))
        eight = ZigzagLayout(document_lengths=(tokens,), world_size=8)
        share = [eight.split(t, 3, dim=2, pad_value=0.0) for t in whole]
        runs: dict[str, Callable[[], Any]] = {
            "whole": functools.partial(
                attend, functools.partial(ring_attention, ring=alone), whole
            ),
            "rank": functools.partial(replay, ring_blocks(eight, 3), share),
        }
        seconds = alternate(runs, sizes.repeats, settle)
        yield Reading(
            what=f"rank of 8, {tokens} tokens, kernels and merges",
            value=min(seconds["rank"]),
            unit="s",
            reference="whole / 8",
            ratio=8 / speedup(seconds, "whole", "rank"),
        )


def replay(blocks: tuple[Block | None, ...], share: list[torch.Tensor]) -> None:
    """Kernel calls, merges and sums of one rank; local keys stand in for those of other ranks."""
    q, k, v, grad_out = share
    kernel, scale = choose_kernel(q.device.type), q.shape[-1] ** -0.5
    exact = accumulate_dtype(q.dtype)
    home, *others = blocks
    assert home is not None
    out, lse = kernel.forward(q, k, v, home, scale=scale)
    out = out.to(exact)
    for b in others:
        if b is not None:
            q_rows, k_rows, v_rows = q[:, :, b.queries], k[:, :, b.keys], v[:, :, b.keys]
            more_out, more_lse = kernel.forward(q_rows, k_rows, v_rows, b, scale=scale)
            merge_(out[:, :, b.queries], lse[:, :, b.queries], more_out, more_lse)
    saved = Saved(q, k, v, out.to(q.dtype), lse)
    sums = [torch.zeros_like(t, dtype=exact) for t in (q, k, v)]
    for b in blocks:
        if b is not None:
            rows = saved.cut(b.queries, b.keys)
            shares = kernel.backward(grad_out[:, :, b.queries], rows, b, scale=scale)
            for total, more, where in zip(sums, shares, (b.queries, b.keys, b.keys), strict=True):
                total[:, :, where] += more


def loss_rows(sizes: Sizes) -> Iterator[Reading]:
    inputs = sizes.loss.inputs(sizes.dtype, sizes.device)
    runs: dict[str, Callable[[], Any]] = {
        "plain": functools.partial(loss_step, 0, inputs),
        "tiled": functools.partial(loss_step, None, inputs),
    }
    seconds = alternate(runs, sizes.repeats, settle)
    yield Reading(
        what=f"tiled loss, {sizes.loss}",
        value=min(seconds["tiled"]),
        unit="s",
        reference="plain loss",
        ratio=1 / speedup(seconds, "plain", "tiled"),
    )
    if sizes.device == "cuda":
        plain, tiled = (peak_bytes(run) for run in runs.values())
        yield Reading(
            what="  its memory", value=tiled, unit="bytes", reference="plain", ratio=tiled / plain
        )


def peak_bytes(run: Callable[[], Any]) -> int:
    """Growth of allocated device memory during a call, at its highest."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def parity_rows(sizes: Sizes) -> Iterator[Reading]:
    """Largest error of output and gradients against float64, over the largest entry."""
    # Long enough for every kernel to take it itself (`ring.cudnn.MIN_PAIRS`).
    shape = AttentionShape(8_200, 4, 2, 64) if sizes.device == "cuda" else sizes.attention
    low = shape.inputs(sizes.dtype, sizes.device)
    exact = attend(sdpa, [t.double() for t in low])
    layout = ZigzagLayout(document_lengths=(shape.tokens,), world_size=1)
    for name, kernel in usable(sizes.device):
        ring = Ring(layout=layout, kernel=name)
        got = attend(functools.partial(ring_attention, ring=ring), low)
        errors = [
            float((g.double() - w).abs().max() / w.abs().max())
            for g, w in zip(got, exact, strict=True)
        ]
        yield Reading(
            what=f"{name} = {kernel.name}: worst of out, dq, dk, dv against float64",
            value=max(errors),
            unit="relative",
        )
