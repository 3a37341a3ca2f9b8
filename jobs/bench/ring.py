"""How fast and how large: ring attention and the tiled loss, as ratios measured within one run.

    python jobs/bench/ring.py    two CPU processes over gloo, one thread each

What a GPU says is in `gpu.py`.

Absolute times depend on the machine and on its other work, so candidates take turns and the table
shows the median of the ratios of neighbouring runs. Besides this package it needs torch and
transformers; only the command line needs tyro.
"""

import dataclasses
import functools
import resource
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from processes import spawn
from timing import (
    GIB,
    AttentionShape,
    LossShape,
    Row,
    Seconds,
    alternate,
    attend,
    loss_step,
    sdpa,
    speedup,
)
from torch_ring import torch_ring

from longva_ray.lm.tiled_loss import TILE_BYTES
from longva_ray.ring.attention import Ring, Schedule, ring_attention
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.ring.plan import ring_blocks

SCHEDULES: tuple[Schedule, ...] = ("ring", "all_gather")

QWEN2_7B_LOSS = LossShape(tokens=32_768, width=3_584, words=152_064)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure ring attention and the tiled loss."""

    tokens: int = 8_192
    """Length of the sequence of the CPU comparison."""
    repeats: int = 5
    """Rounds of each comparison."""


def time_schedules(shape: AttentionShape, repeats: int) -> Seconds:
    """On each rank: one process alone, our two schedules, torch's ring, in turns."""
    layout = ZigzagLayout(document_lengths=(shape.tokens,), world_size=dist.get_world_size())
    rank, whole = dist.get_rank(), shape.inputs(torch.float32, "cpu")
    share = [layout.split(t, rank, dim=2, pad_value=0.0) for t in whole]
    runs: dict[str, Callable[[], Any]] = {
        "one process": lambda: attend(sdpa, whole) if rank == 0 else None
    }
    for schedule in SCHEDULES:
        ring = Ring(layout=layout, group=dist.group.WORLD, schedule=schedule)
        runs[schedule] = functools.partial(
            attend, functools.partial(ring_attention, ring=ring), share
        )
    assert dist.group.WORLD is not None
    runs["torch ring"] = functools.partial(torch_ring, dist.group.WORLD, *share)
    return alternate(runs, repeats, dist.barrier)


def rounding_errors(schedule: Schedule) -> dict[str, float]:
    """On each rank: error norms of the whole sequence in bfloat16 against float64."""
    whole = AttentionShape(1024, 4, 2, 64).inputs(torch.bfloat16, "cpu")
    size, rank = dist.get_world_size(), dist.get_rank()
    layout = ZigzagLayout(document_lengths=(1024,), world_size=size)
    ring = Ring(layout=layout, group=dist.group.WORLD, schedule=schedule)
    share = [layout.split(t, rank, dim=2, pad_value=0.0) for t in whole]
    results = attend(functools.partial(ring_attention, ring=ring), share)
    exact = attend(sdpa, [t.double() for t in whole])
    errors = {}
    for name, local, wanted in zip(("out", "dq", "dk", "dv"), results, exact, strict=True):
        shards = [torch.empty_like(local.contiguous()) for _ in range(size)]
        dist.all_gather(shards, local.contiguous())
        difference = layout.merge(shards, dim=2).double() - wanted
        errors[name] = float(difference.norm() / wanted.norm())
    return errors


def loss_peak_bytes(tile_tokens: int, shape: LossShape) -> int:
    """In a fresh process: how far the largest resident size grows over that of the inputs."""
    loss_step(tile_tokens, LossShape(8, 8, 8).inputs(torch.float32, "cpu"))  # load the kernels
    inputs = shape.inputs(torch.float32, "cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss_step(tile_tokens, inputs)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def time_losses(tile_tokens: int, shape: LossShape, repeats: int) -> Seconds:
    """In one process: the plain and the tiled loss, in turns."""
    inputs = shape.inputs(torch.float32, "cpu")
    runs: dict[str, Callable[[], Any]] = {
        "plain": functools.partial(loss_step, 0, inputs),
        "tiled": functools.partial(loss_step, tile_tokens, inputs),
    }
    return alternate(runs, repeats, lambda: None)


def cpu_rows(shape: AttentionShape, loss: LossShape, repeats: int) -> list[Row]:
    """Everything that needs no GPU."""
    seconds = spawn(2, time_schedules, shape, repeats)
    rows = [Row(f"CPU, forward+backward, float32, {shape}", "")]
    for schedule in SCHEDULES:
        alone, theirs = (speedup(seconds, slow, schedule) for slow in ("one process", "torch ring"))
        wanted = (">= 1.70x", ">= 1.00x") if schedule == "ring" else ("", "")
        rows.append(Row(f"  {schedule}: 2 processes over 1", f"{alone:.2f}x", wanted[0]))
        rows.append(Row(f"  {schedule}: over torch's own ring", f"{theirs:.2f}x", wanted[1]))
    medians = ", ".join(f"{name} {statistics.median(s):.2f}" for name, s in seconds.items())
    return [*rows, Row("  median seconds", medians), *cpu_loss_rows(loss, repeats)]


def cpu_loss_rows(shape: LossShape, repeats: int) -> list[Row]:
    """The tiled loss at a size that runs here, and by formula at the size of a 7B model."""
    large_tile = TILE_BYTES // (4 * QWEN2_7B_LOSS.words)
    tile = max(1, shape.tokens * large_tile // QWEN2_7B_LOSS.tokens)  # as many tiles as there
    plain, tiled = (spawn(1, loss_peak_bytes, size, shape) for size in (0, tile))
    plain_formula, tiled_formula = shape.plain_bytes(), shape.tiled_bytes(4, tile)
    seconds = spawn(1, time_losses, tile, shape, repeats)
    large_plain, large_tiled = (
        QWEN2_7B_LOSS.plain_bytes(),
        QWEN2_7B_LOSS.tiled_bytes(2, large_tile),
    )
    return [
        Row(f"tiled loss, {shape}, float32, {tile} tokens a tile", ""),
        Row("  time over plain", f"{1 / speedup(seconds, 'plain', 'tiled'):.2f}x", "<= 1.15x"),
        Row("  peak memory, plain", f"{plain / GIB:.3f} GiB (formula {plain_formula / GIB:.3f})"),
        Row("  peak memory, tiled", f"{tiled / GIB:.3f} GiB (formula {tiled_formula / GIB:.3f})"),
        Row("  peak memory over plain", f"1/{plain / tiled:.1f}", "<= 1/8"),
        Row(f"by formula: {QWEN2_7B_LOSS}, bfloat16, {large_tile} tokens a tile", ""),
        Row("  peak memory, plain, tiled", f"{large_plain / GIB:.1f}, {large_tiled / GIB:.1f} GiB"),
        Row("  peak memory over plain", f"1/{large_plain / large_tiled:.1f}", "<= 1/8"),
    ]


def balance_rows() -> list[Row]:
    """Query-key pairs of the busiest of 8 ranks, counted on the planned kernel calls."""
    rows = [Row("zigzag balance, busiest of 8 ranks over the mean (counted)", "")]
    for documents in ((224_000,), (223_999,), (3_000,) * 75):
        layout = ZigzagLayout(document_lengths=documents, world_size=8)
        work = [sum(b.num_pairs for b in ring_blocks(layout, r) if b) for r in range(8)]
        spread = max(work) / (sum(work) / 8) - 1
        what = f"  {len(documents)} document(s) of {documents[0]} tokens"
        rows.append(Row(what, f"+{spread:.2%}", "<= 5%"))
    return rows


def rounding_rows() -> list[Row]:
    """How bfloat16 rounding depends on the number of ranks."""
    rows = [Row("bfloat16 against float64, relative error norm of out / dq / dk / dv", "")]
    for schedule in SCHEDULES:
        for size in (1, 2, 4):
            errors = spawn(size, rounding_errors, schedule)
            wanted = "as with 1" if schedule == "all_gather" and size > 1 else ""
            cells = " / ".join(f"{error:.2e}" for error in errors.values())
            rows.append(Row(f"  {schedule}, {size} rank(s)", cells, wanted))
    return rows


def measure(options: Options) -> list[Row]:
    """The whole table."""
    attention = AttentionShape(options.tokens, heads=4, key_heads=2, head_dim=64)
    rows = cpu_rows(attention, LossShape(4_096, 512, 16_000), options.repeats)
    return [*rows, *balance_rows(), *rounding_rows()]


def main() -> None:
    import tyro

    for row in measure(tyro.cli(Options)):
        print(f"{row.what:<72} {row.measured:<44} {row.wanted}".rstrip())


if __name__ == "__main__":
    main()
