"""Which segments cuDNN gets, and a ring on it against one process."""

import pytest
import torch
import torch.distributed as dist
from block_reference import SCALE, block_inputs, block_of, segments_by_definition
from cuda_operators import cuda_operators_on_cpu
from ring_reference import attention_and_gradients, random_inputs, relative_error
from worker_pool import WorkerPool

from longva_ray.ring import choose, cudnn, flash
from longva_ray.ring.attention import Ring, ring_attention
from longva_ray.ring.cudnn import MIN_PAIRS, MIN_PAIRS_ONCE, Cudnn
from longva_ray.ring.kernel import Kernel, Saved
from longva_ray.ring.layout import ZigzagLayout
from longva_ray.ring.plan import Block, gather_blocks, ring_blocks

FORWARD, FLASH_FORWARD = "_scaled_dot_product_cudnn_attention", "_flash_attention_forward"
BACKWARD, FLASH_BACKWARD = f"{FORWARD}_backward", "_flash_attention_backward"


def small_cudnn() -> Kernel:
    """Large is here a causal square of 6 tokens."""
    return Cudnn(min_pairs=21, min_pairs_once=21)


def large(block: Block) -> list[bool]:
    """Of the calls that a block becomes."""
    return [is_large for is_large, _ in Cudnn()._parts(block, 128)]


@pytest.mark.parametrize("world", [1, 8])
def test_the_papers_row_is_cudnns_alone(world: int) -> None:
    layout = ZigzagLayout(document_lengths=(224_000,), world_size=world)
    for rank in range(world):
        blocks = [*ring_blocks(layout, rank), *gather_blocks(layout, rank)]
        assert all(large(block) == [True] for block in blocks if block is not None)


def test_packed_documents_are_one_call_unless_they_are_long() -> None:
    def calls(*documents: int) -> list[bool]:
        (block,) = ring_blocks(ZigzagLayout(document_lengths=documents, world_size=1), 0)
        assert block is not None
        return large(block)

    assert calls(*[3_000] * 74) == [False]
    assert calls(2_000, 30_000, 2_000, 40_000, 50_000, 100, 100) == [False, True, True, False]
    assert calls(8_192) == [True]
    assert calls(8_000) == [False]


def test_a_token_or_a_chunk_after_a_cache_is_not_worth_a_plan() -> None:
    """`answer.attention`: each chunk meets another number of keys."""
    assert MIN_PAIRS < MIN_PAIRS_ONCE
    for queries, wanted in ((1, False), (2_048, False), (16_384, True)):
        block = Block(
            queries=slice(0, queries),
            keys=slice(0, 147_456),
            query_starts=(0, queries),
            key_starts=(0, 147_456),
            causal=True,
            varies=True,
        )
        assert large(block) == [wanted]


def test_heads_that_are_too_large_for_it_take_the_flash_operator() -> None:
    block = block_of([65_536], [65_536], causal=True)
    assert [is_large for is_large, _ in Cudnn()._parts(block, 256)] == [False]


def test_the_name_is_that_of_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short, long, short and short: what runs is what the name says, with parity of the whole."""
    for module in (flash, cudnn):
        monkeypatch.setattr(module, "check_input", lambda q: None)
    block = block_of([3, 9, 2, 4], [3, 12, 2, 4], causal=True)
    q, k, v, grad_out = block_inputs(block)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    wanted_out, wanted_lse = segments_by_definition(*leaves, block)
    wanted = torch.autograd.grad(wanted_out, leaves, grad_out)
    kernel = small_cudnn()
    with cuda_operators_on_cpu() as calls:
        out, lse = kernel.forward(q, k, v, block, scale=SCALE)
        assert calls == [FLASH_FORWARD, FORWARD, FORWARD, FLASH_FORWARD]
        calls.clear()
        grads = kernel.backward(grad_out, Saved(q, k, v, out, lse), block, scale=SCALE)
        assert calls == [FLASH_BACKWARD, BACKWARD, BACKWARD, FLASH_BACKWARD]
    assert kernel.name == "cuDNN, and aten (CUDA flash) for small segments"
    for got, want in zip((out, lse, *grads), (wanted_out, wanted_lse, *wanted), strict=True):
        assert relative_error(got, want.detach()) <= 1e-12
    assert out.transpose(1, 2).is_contiguous(), "the layers after attention would copy it"


def on_cudnn(
    group: dist.ProcessGroup,
    whole: tuple[torch.Tensor, ...],
    documents: tuple[int, ...],
    schedule: str,
) -> tuple[tuple[torch.Tensor, ...], set[str]]:
    """Job: this rank's share of out, dq, dk, dv, and which operators ran."""
    layout = ZigzagLayout(document_lengths=documents, world_size=dist.get_world_size(group))
    ring = Ring(layout=layout, group=group, schedule=schedule, kernel="cudnn")  # type: ignore[arg-type]
    q, k, v, grad_out = (layout.split(t, ring.rank, dim=2, pad_value=1.0) for t in whole)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    with pytest.MonkeyPatch.context() as patch, cuda_operators_on_cpu() as calls:
        patch.setitem(choose.KERNELS["cpu"], "cudnn", small_cudnn)
        for module in (flash, cudnn):
            patch.setattr(module, "check_input", lambda q: None)
        choose.choose_kernel.cache_clear()
        out = ring_attention(*leaves, ring)
        grads = torch.autograd.grad(out, leaves, grad_out)
    choose.choose_kernel.cache_clear()
    return (out.detach(), *grads), set(calls)


@pytest.mark.parametrize("schedule", ["ring", "all_gather"])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(
    "documents", [(64,), (61,), (7, 30, 24), (3, 1, 40, 2, 17), (5,) * 8], ids=str
)
def test_a_ring_on_cudnn_equals_one_process(
    pool: WorkerPool, documents: tuple[int, ...], world: int, schedule: str
) -> None:
    whole = random_inputs(sum(documents), batch=2, heads=14, key_heads=2)
    wanted = attention_and_gradients(*whole, documents)
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    shares, calls = zip(*pool.run(on_cudnn, world, whole, documents, schedule), strict=True)
    for parts, want in zip(zip(*shares, strict=True), wanted, strict=True):
        assert relative_error(layout.merge(list(parts), dim=2), want) <= 1e-10
    if documents == (64,) and world == 1:
        assert calls == ({FORWARD, BACKWARD},)
