"""Ring attention on real processes against one process, forward and backward."""

import pytest
import torch
import torch.distributed as dist
from ring_reference import attention_and_gradients, random_inputs, relative_error
from torch_ring import torch_ring
from worker_pool import WorkerPool

from longva_ray.ring.attention import Ring, Schedule, ring_attention
from longva_ray.ring.layout import ZigzagLayout

SCHEDULES = ("ring", "all_gather")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def attend(
    group: dist.ProcessGroup,
    whole: tuple[torch.Tensor, ...],
    documents: tuple[int, ...],
    schedule: Schedule,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    """Job: this rank's share of out, dq, dk, dv."""
    layout = ZigzagLayout(document_lengths=documents, world_size=dist.get_world_size(group))
    ring = Ring(layout=layout, group=group, schedule=schedule)
    # Padding rows get a gradient too, which must not reach other rows.
    q, k, v, grad_out = (layout.split(t, ring.rank, dim=2, pad_value=1.0) for t in whole)
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    out = ring_attention(q, k, v, ring, scale=scale)
    assert out.dtype == q.dtype
    return (out.detach(), *torch.autograd.grad(out, (q, k, v), grad_out))


def run_ring(
    pool: WorkerPool,
    world: int,
    whole: tuple[torch.Tensor, ...],
    documents: tuple[int, ...],
    schedule: str,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    """out, dq, dk, dv of the whole sequence."""
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    shares = pool.run(attend, world, whole, documents, schedule, scale)
    return tuple(layout.merge(list(parts), dim=2) for parts in zip(*shares, strict=True))


def assert_close(
    got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...], tolerance: float
) -> None:
    errors = {
        name: relative_error(g, w)
        for name, g, w in zip(("out", "dq", "dk", "dv"), got, wanted, strict=True)
    }
    assert all(error <= tolerance for error in errors.values()), errors


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(
    "documents",
    [(1,), (64,), (61,), (7, 30, 24), (1,) * 23, (3, 1, 40, 2, 17), (5,) * 8],
    ids=lambda d: "x".join(map(str, d)) if len(d) < 6 else f"{len(d)}x{d[0]}",
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_equals_one_process(
    pool: WorkerPool, world: int, documents: tuple[int, ...], schedule: str, dtype: torch.dtype
) -> None:
    whole = random_inputs(sum(documents), batch=2, heads=4, key_heads=2, dtype=dtype)
    wanted = attention_and_gradients(*(t.double() for t in whole), documents)
    assert_close(run_ring(pool, world, whole, documents, schedule), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("ratio", [1, 2, 7])
def test_grouped_query_attention(pool: WorkerPool, ratio: int, schedule: str) -> None:
    documents = (11, 34)
    whole = random_inputs(45, heads=2 * ratio, key_heads=2)
    wanted = attention_and_gradients(*whole, documents)
    assert_close(run_ring(pool, 4, whole, documents, schedule), wanted, 1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scale_is_honoured(pool: WorkerPool, schedule: str) -> None:
    whole = random_inputs(20)
    wanted = attention_and_gradients(*whole, (20,), scale=0.7)
    assert_close(run_ring(pool, 2, whole, (20,), schedule, 0.7), wanted, 1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_log_sum_exp_gaps_above_one_hundred(
    pool: WorkerPool, schedule: str, dtype: torch.dtype
) -> None:
    """Keys of one chunk dwarf all others: the exponential of the gap overflows float32.

    Every flash backward computes weights again as exp(score - log-sum-exp). Both are near 283 here,
    where float32 rounds to about 283 eps; a weight is off by that factor, and the gradient of a
    query by that times the loud key. How much of it cancels differs from processor to processor.
    """
    loud_query, loud_key, head_dim = 20.0, 40.0, 8
    score = loud_query * loud_key / head_dim**0.5
    rounding = 2 * loud_key * score * torch.finfo(dtype).eps
    for loud in (slice(0, 8), slice(40, 48)):
        q, k, v, grad_out = random_inputs(64, dtype=dtype, head_dim=head_dim)
        q[..., 0], k[..., 0] = loud_query, 0.0
        k[:, :, loud, 0] = loud_key
        wanted = attention_and_gradients(*(t.double() for t in (q, k, v, grad_out)), (64,))
        got = run_ring(pool, 4, (q, k, v, grad_out), (64,), schedule)
        assert_close(got, wanted, TOLERANCE[dtype] + rounding)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_documents_do_not_see_each_other(pool: WorkerPool, schedule: str) -> None:
    """Changing a token of one document moves nothing, not one bit, in the others."""
    documents = (9, 21, 15)
    whole = random_inputs(45)
    before = run_ring(pool, 4, whole, documents, schedule)
    for changed in whole:
        changed[:, :, 12] += 3.0
    after = run_ring(pool, 4, whole, documents, schedule)
    for name, old, new in zip(("out", "dq", "dk", "dv"), before, after, strict=True):
        assert torch.equal(old[:, :, :9], new[:, :, :9]), name
        assert torch.equal(old[:, :, 30:], new[:, :, 30:]), name
        assert not torch.equal(old[:, :, 9:30], new[:, :, 9:30]), name


def repeat(group: dist.ProcessGroup, times: int) -> list[int]:
    """Job: the repetitions whose result differs in any bit from the first one."""
    whole = random_inputs(37, heads=4, key_heads=2, dtype=torch.float32)
    first = attend(group, whole, (20, 17), "ring")
    again = (attend(group, whole, (20, 17), "ring") for _ in range(times))
    return [
        i
        for i, result in enumerate(again)
        if not all(torch.equal(a, b) for a, b in zip(first, result, strict=True))
    ]


@pytest.mark.parametrize("world", [2, 4])
def test_point_to_point_repeats_bit_for_bit(pool: WorkerPool, world: int) -> None:
    assert pool.run(repeat, world, 200) == [[]] * world


def inside_torch(
    group: dist.ProcessGroup, whole: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """Job: the same by torch's private ring, which knows one document of fitting length."""
    layout = ZigzagLayout(
        document_lengths=(whole[0].shape[2],), world_size=dist.get_world_size(group)
    )
    rank = dist.get_rank(group)
    share = (layout.split(t, rank, dim=2, pad_value=0.0) for t in whole)
    return torch_ring(group, *share)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_agrees_with_the_ring_inside_torch(pool: WorkerPool, world: int, schedule: str) -> None:
    whole = random_inputs(64, heads=4, key_heads=2, dtype=torch.float32)
    layout = ZigzagLayout(document_lengths=(64,), world_size=world)
    shares = pool.run(inside_torch, world, whole)
    theirs = tuple(layout.merge(list(parts), dim=2) for parts in zip(*shares, strict=True))
    assert_close(run_ring(pool, world, whole, (64,), schedule), theirs, 1e-5)


def test_bfloat16_error_does_not_grow_with_the_ring_under_all_gather(pool: WorkerPool) -> None:
    """Error against float64 by world size; point to point rounds once a step, all-gather once."""
    whole = random_inputs(256, heads=4, key_heads=2, head_dim=32, dtype=torch.bfloat16)
    wanted = attention_and_gradients(*(t.double() for t in whole), (256,))

    def errors(schedule: str, world: int) -> list[float]:
        got = run_ring(pool, world, whole, (256,), schedule)
        return [float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True)]

    table = {(s, world): errors(s, world) for s in SCHEDULES for world in (1, 2, 4)}
    for world in (2, 4):
        for one, many in zip(table["all_gather", 1], table["all_gather", world], strict=True):
            assert many <= 1.1 * one, table
    assert max(max(row) for row in table.values()) <= 1e-2, table


def test_strides_do_not_matter() -> None:
    """Flash kernels read garbage when the entries of a head are not side by side."""
    ring = Ring(layout=ZigzagLayout(document_lengths=(9, 7), world_size=1))
    q, k, v, grad_out = random_inputs(16)
    wanted = attention_and_gradients(q, k, v, grad_out, (9, 7))
    strided = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (q, k, v, grad_out)]
    leaves = [t.requires_grad_() for t in strided[:3]]
    out = ring_attention(*leaves, ring)
    grads = torch.autograd.grad(out, leaves, strided[3])
    assert_close((out.detach(), *grads), wanted, 1e-12)


def test_mistakes_are_errors() -> None:
    layout = ZigzagLayout(document_lengths=(8,), world_size=1)
    q = torch.zeros(1, 4, 8, 8)
    ring = Ring(layout=layout)
    with pytest.raises(ValueError, match="over 2 ranks but the process group has 1"):
        Ring(layout=ZigzagLayout(document_lengths=(8,), world_size=2))
    with pytest.raises(ValueError, match="unknown schedule 'star'"):
        Ring(layout=layout, schedule="star")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="key heads must divide query heads"):
        ring_attention(q, q[:, :3], q[:, :3], ring)
    with pytest.raises(ValueError, match="every rank 8 tokens"):
        ring_attention(q[:, :, :6], q[:, :, :6], q[:, :, :6], ring)
    with pytest.raises(ValueError, match="share dtype"):
        ring_attention(q, q.double(), q.double(), ring)
    with pytest.raises(ValueError, match="does not take cpu tensors"):
        ring_attention(q, q, q, Ring(layout=layout, kernel="flash-attn"))
