"""Zigzag layout: any length, any world, documents and labels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longva_ray.ring.layout import IGNORE_INDEX, ZigzagLayout, next_token_labels

worlds = st.integers(1, 8)


documents = st.lists(st.integers(1, 9), min_size=1, max_size=9).map(tuple)


@given(documents=documents, world=worlds, dim=st.sampled_from([0, 1, -1]))
def test_merge_undoes_split_for_any_length(
    documents: tuple[int, ...], world: int, dim: int
) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    shape = [2, 3]
    shape.insert(dim if dim >= 0 else len(shape), layout.num_tokens)
    x = torch.randn(shape)
    shards = [layout.split(x, rank, dim=dim, pad_value=7.0) for rank in range(world)]
    assert {shard.shape[dim] for shard in shards} == {layout.local_tokens}
    assert torch.equal(layout.merge(shards, dim=dim), x)


@given(documents=documents, world=worlds)
def test_every_token_lives_on_one_rank_and_padding_is_minimal(
    documents: tuple[int, ...], world: int
) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    indices = torch.cat([layout.token_indices(rank) for rank in range(world)])
    assert torch.equal(indices.sort().values, torch.arange(layout.padded_tokens))
    assert 0 <= layout.padded_tokens - layout.num_tokens < 2 * world


@given(documents=documents, world=worlds)
def test_split_takes_the_tokens_that_token_indices_names(
    documents: tuple[int, ...], world: int
) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    sequence = torch.arange(layout.padded_tokens)
    for rank in range(world):
        local = layout.split(sequence, rank, dim=0, pad_value=-1)
        assert torch.equal(local, layout.token_indices(rank))


def test_two_ranks_by_hand() -> None:
    layout = ZigzagLayout(document_lengths=(5, 2), world_size=2)
    ids = torch.arange(10, 17)[None]
    assert layout.document_starts == (0, 5, 7, 8)
    assert layout.split(ids, 0, dim=1, pad_value=0).tolist() == [[10, 11, 16, 0]]
    assert layout.split(ids, 1, dim=1, pad_value=0).tolist() == [[12, 13, 14, 15]]
    assert layout.positions(0).tolist() == [0, 1, 1, 0]
    assert layout.positions(1).tolist() == [2, 3, 4, 0]
    labels = next_token_labels(ids, layout)
    assert labels.tolist() == [[11, 12, 13, 14, IGNORE_INDEX, 16, IGNORE_INDEX]]
    assert layout.split(labels, 0, dim=1, pad_value=IGNORE_INDEX).tolist() == [
        [11, 12, IGNORE_INDEX, IGNORE_INDEX]
    ]


@given(documents=documents, world=worlds)
def test_labels_cross_neither_a_document_nor_the_padding(
    documents: tuple[int, ...], world: int
) -> None:
    layout = ZigzagLayout(document_lengths=documents, world_size=world)
    # A token that says which document it is in: a label differing from its own token would cross a
    # boundary.
    ids = torch.cat([torch.full((n,), i) for i, n in enumerate(documents)])[None]
    labels = next_token_labels(ids, layout)
    kept = labels != IGNORE_INDEX
    assert torch.equal(labels[kept], ids[kept])
    assert int(kept.sum()) == layout.num_tokens - len(documents)
    local = [layout.split(labels, r, dim=1, pad_value=IGNORE_INDEX) for r in range(world)]
    assert sum(int((x != IGNORE_INDEX).sum()) for x in local) == int(kept.sum())


def test_labels_keep_their_holes() -> None:
    layout = ZigzagLayout(document_lengths=(4,), world_size=1)
    targets = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 8, 9]])
    assert next_token_labels(targets, layout).tolist() == [[IGNORE_INDEX, 8, 9, IGNORE_INDEX]]


def test_mistakes_are_errors_that_name_both_numbers() -> None:
    layout = ZigzagLayout(document_lengths=(5,), world_size=2)
    with pytest.raises(ValueError, match=r"6 tokens .* hold 5 \(8 with padding\)"):
        layout.split(torch.zeros(6), 0, dim=0, pad_value=0)
    with pytest.raises(ValueError, match="2 shards of 4 tokens"):
        layout.merge([torch.zeros(4)], dim=0)
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\), got 2"):
        layout.chunks(2)
    with pytest.raises(ValueError, match="world_size"):
        ZigzagLayout(document_lengths=(5,), world_size=0)
    with pytest.raises(ValueError, match="at least one document"):
        ZigzagLayout(document_lengths=(3, 0), world_size=2)
    with pytest.raises(ValueError, match="at least one document"):
        ZigzagLayout(document_lengths=(), world_size=2)
