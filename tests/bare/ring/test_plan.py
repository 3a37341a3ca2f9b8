"""The planned kernel calls cover exactly the causal mask inside each document, once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from longva_ray.ring.layout import ZigzagLayout
from longva_ray.ring.plan import Block, gather_blocks, ring_blocks

worlds = st.integers(1, 8)


documents = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(tuple)


def wanted_mask(layout: ZigzagLayout) -> torch.Tensor:
    """Query x key over the padded sequence: same document, key not later than query."""
    starts = torch.tensor(layout.document_starts)
    index = torch.arange(layout.padded_tokens)
    document = torch.searchsorted(starts, index, right=True)
    return (document[:, None] == document[None, :]) & (index[:, None] >= index[None, :])


def mark(counts: torch.Tensor, block: Block, queries: torch.Tensor, keys: torch.Tensor) -> None:
    """Add one to each pair that the block computes; `queries`, `keys` give rows a global index."""
    block_queries, block_keys = queries[block.queries], keys[block.keys]
    for query_rows, key_rows in block.segments():
        q, k = block_queries[query_rows], block_keys[key_rows]
        pairs = torch.ones(len(q), len(k), dtype=torch.int64)
        if block.causal:
            pairs = pairs.tril(diagonal=len(k) - len(q))
        counts[q[:, None], k[None, :]] += pairs


@given(documents=documents, world=worlds)
def test_ring_steps_cover_each_pair_once(documents: tuple[int, ...], world: int) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    counts = torch.zeros(layout.padded_tokens, layout.padded_tokens, dtype=torch.int64)
    for rank in range(world):
        for step, block in enumerate(ring_blocks(layout, rank)):
            if block is not None:
                source = (rank - step) % world
                mark(counts, block, layout.token_indices(rank), layout.token_indices(source))
    assert torch.equal(counts, wanted_mask(layout).long())


@given(documents=documents, world=worlds)
def test_gather_calls_cover_each_pair_once(documents: tuple[int, ...], world: int) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    counts = torch.zeros(layout.padded_tokens, layout.padded_tokens, dtype=torch.int64)
    for rank in range(world):
        for block in gather_blocks(layout, rank):
            mark(counts, block, layout.token_indices(rank), torch.arange(layout.padded_tokens))
    assert torch.equal(counts, wanted_mask(layout).long())


@given(documents=documents, world=worlds)
def test_counted_work_is_the_size_of_the_mask(documents: tuple[int, ...], world: int) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    wanted = int(wanted_mask(layout).sum())
    by_ring = [b.num_pairs for r in range(world) for b in ring_blocks(layout, r) if b]
    by_gather = [b.num_pairs for r in range(world) for b in gather_blocks(layout, r)]
    assert sum(by_ring) == sum(by_gather) == wanted


def test_one_document_is_balanced_to_the_pair() -> None:
    layout = ZigzagLayout(document_lengths=(16 * 1000,), world_size=8)
    work = [sum(b.num_pairs for b in ring_blocks(layout, r) if b) for r in range(8)]
    assert len(set(work)) == 1


def test_a_step_without_a_shared_document_is_empty() -> None:
    layout = ZigzagLayout(document_lengths=(1,) * 16, world_size=4)
    for rank in range(4):
        assert ring_blocks(layout, rank)[1:] == (None, None, None)
