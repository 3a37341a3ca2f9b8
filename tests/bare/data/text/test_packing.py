"""Packing: every token of the stream stands in exactly one place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longva_ray.data.text.packing import PackPlan, pack, shuffled_stream


def packed(lengths: list[int], sequence_length: int, keep_whole: bool = False) -> PackPlan:
    stream = np.arange(len(lengths))
    return pack(stream, np.array(lengths), sequence_length=sequence_length, keep_whole=keep_whole)


def rows(plan: PackPlan) -> list[list[tuple[int, int, int]]]:
    """(document, start, length) of the pieces of each sequence."""
    pieces = list(
        zip(plan.document_P.tolist(), plan.start_P.tolist(), plan.length_P.tolist(), strict=True)
    )
    return [pieces[plan.pieces(n, n + 1)] for n in range(plan.num_sequences)]


def test_a_cut_document_goes_on_in_the_next_sequence() -> None:
    assert rows(packed([3, 4, 12], 5)) == [
        [(0, 0, 3), (1, 0, 2)],
        [(1, 2, 2), (2, 0, 3)],
        [(2, 3, 5)],
        [(2, 8, 4)],
    ]


def test_a_document_that_ends_with_a_sequence_is_not_cut() -> None:
    assert rows(packed([2, 3, 5], 5)) == [[(0, 0, 2), (1, 0, 3)], [(2, 0, 5)]]


def test_kept_whole_a_document_starts_the_next_sequence() -> None:
    assert rows(packed([3, 4, 1, 5], 5, keep_whole=True)) == [
        [(0, 0, 3)],
        [(1, 0, 4), (2, 0, 1)],
        [(3, 0, 5)],
    ]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="1 documents, the longest of 6 tokens"):
        packed([3, 6], 5, keep_whole=True)
    with pytest.raises(ValueError, match="no document"):
        packed([], 5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 50), st.booleans())
def test_every_token_is_packed_once_and_in_order(
    lengths: list[int], sequence_length: int, keep_whole: bool
) -> None:
    if keep_whole:
        lengths = [min(length, sequence_length) for length in lengths]
    plan = packed(lengths, sequence_length, keep_whole)
    tokens = [
        (document, token)
        for row in rows(plan)
        for document, start, length in row
        for token in range(start, start + length)
    ]
    assert tokens == [(d, token) for d, length in enumerate(lengths) for token in range(length)]
    used = [sum(length for _, _, length in row) for row in rows(plan)]
    assert max(used) <= sequence_length
    if keep_whole:
        assert len(plan.document_P) == len(lengths)
    else:
        assert all(each == sequence_length for each in used[:-1])


def test_the_stream_holds_every_copy_and_follows_from_the_seed() -> None:
    copies = np.array([0, 1, 3, 2] * 20)
    stream = shuffled_stream(copies, seed=1)
    np.testing.assert_array_equal(np.bincount(stream, minlength=80), copies)
    np.testing.assert_array_equal(stream, shuffled_stream(copies, seed=1))
    assert not np.array_equal(stream, shuffled_stream(copies, seed=2))
    assert not np.array_equal(stream, np.sort(stream))
