"""Layout -> kernel calls: which query rows of this rank meet which key rows, and how.

The order of the chunks leaves only three kinds of work. Let rank r hold queries and let the keys of
rank s be at hand:

    s == r   each local document attends to itself, causally. Local tokens keep their global
             order, so a document on both chunks is one run of rows and an ordinary causal square.
    s <  r   chunk s lies before both local chunks, chunk 2W-1-s after both: all local rows
             against chunk s, no mask.
    s >  r   both chunks of s lie between the two local chunks: the second local chunk against
             all rows of s, no mask.

Documents only shrink that work. Two chunks can share only one document, the one that the earlier
chunk ends with. So each step of a ring is still at most one unmasked rectangle, and no mask tensor
exists anywhere. For a whole sequence of keys (the all-gather schedule) each local chunk is one call
of the kind that flash-attention calls variable length, with the mask aligned to the last row and
the last key of each document.

Every row meets at least its own key in the step s == r, so no row is ever fully masked (kernels
disagree about those).

What it does not do: no tensors here, only integers. The kernels follow `kernel`.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator

from longva_ray.ring.layout import ZigzagLayout


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """One kernel call: some query rows of this rank against some rows of the keys at hand.

    `query_starts` and `key_starts` cut both into segments of equal number, relative to the first
    row; segment i of the queries attends to segment i of the keys and to nothing else. A causal
    segment has at least as many keys as queries and its last query sees its last key.
    """

    queries: slice
    keys: slice
    query_starts: tuple[int, ...]
    key_starts: tuple[int, ...]
    causal: bool
    varies: bool
    """Whether the next sequence is likely to have segments of other lengths. Some kernels prepare
    for each length, which only pays for one that comes again."""

    @property
    def num_pairs(self) -> int:
        """Query-key pairs that are computed: the unit in which work is counted."""
        return sum(self.pairs_of_segments())

    def pairs_of_segments(self) -> Iterator[int]:
        """The same for each segment."""
        for queries, keys in self.segments():
            num_queries, num_keys = queries.stop - queries.start, keys.stop - keys.start
            hidden = num_queries * (num_queries - 1) // 2 if self.causal else 0
            yield num_queries * num_keys - hidden

    def part(self, first: int, stop: int) -> "Block":
        """Segments first..stop-1 as a block within the rows of this one."""
        queries, keys = (
            starts[first : stop + 1] for starts in (self.query_starts, self.key_starts)
        )
        return Block(
            queries=slice(queries[0], queries[-1]),
            keys=slice(keys[0], keys[-1]),
            query_starts=tuple(start - queries[0] for start in queries),
            key_starts=tuple(start - keys[0] for start in keys),
            causal=self.causal,
            varies=self.varies,
        )

    def segments(self) -> Iterator[tuple[slice, slice]]:
        """Query rows and key rows of each segment, relative to the first row of the block."""
        return zip(_slices(self.query_starts), _slices(self.key_starts), strict=True)


@functools.lru_cache(maxsize=64)
def ring_blocks(layout: ZigzagLayout, rank: int) -> tuple[Block | None, ...]:
    """The W steps of a ring: step i meets the keys of rank r-i; None is nothing to compute."""
    size = layout.world_size
    others = (_block_across(layout, rank, (rank - step) % size) for step in range(1, size))
    return (_block_at_home(layout, rank), *others)


@functools.lru_cache(maxsize=64)
def gather_blocks(layout: ZigzagLayout, rank: int) -> tuple[Block, ...]:
    """The two calls of the all-gather schedule, one a chunk; keys are rows of the sequence."""
    starts = layout.document_starts
    blocks = []
    for chunk, row in zip(layout.chunks(rank), (0, layout.chunk_tokens), strict=True):
        first_key, _ = _document(starts, chunk.start)
        cuts = _cuts(starts, chunk)
        blocks.append(
            Block(
                queries=slice(row, row + len(chunk)),
                keys=slice(first_key, chunk.stop),
                query_starts=tuple(cut - chunk.start for cut in cuts),
                key_starts=(0, *(cut - first_key for cut in cuts[1:])),
                causal=True,
                varies=_varies(layout),
            )
        )
    return tuple(blocks)


def _block_at_home(layout: ZigzagLayout, rank: int) -> Block:
    """Local queries against local keys, document by document."""
    starts, size = layout.document_starts, layout.chunk_tokens
    early, late = layout.chunks(rank)
    early_rows = [cut - early.start for cut in _cuts(starts, early)]
    late_rows = [cut - late.start + size for cut in _cuts(starts, late)]
    first_of_late, _ = _document(starts, late.start)
    if first_of_late < early.stop:
        late_rows.pop(0)  # one document reaches from chunk to chunk: no cut between their rows
    cuts = (*early_rows[:-1], *late_rows)
    rows = slice(0, 2 * size)
    return Block(
        queries=rows,
        keys=rows,
        query_starts=cuts,
        key_starts=cuts,
        causal=True,
        varies=_varies(layout),
    )


def _block_across(layout: ZigzagLayout, rank: int, source: int) -> Block | None:
    """Local queries against the keys of another rank: one rectangle, or nothing to share."""
    size = layout.chunk_tokens
    early, late = layout.chunks(rank)
    key_early, key_late = layout.chunks(source)
    # All keys of the rectangle lie before all its queries, so the shared document holds the last
    # key and first query.
    last_key, first_query = (
        (key_early.stop - 1, early.start) if source < rank else (key_late.stop - 1, late.start)
    )
    start, stop = _document(layout.document_starts, first_query)
    if start > last_key:
        return None
    if source < rank:
        queries = slice(0, _rows_before(stop, early) + _rows_before(stop, late))
        keys = slice(_rows_before(start, key_early), size)
    else:
        queries = slice(size, size + _rows_before(stop, late))
        keys = slice(_rows_before(start, key_early) + _rows_before(start, key_late), 2 * size)
    return Block(
        queries=queries,
        keys=keys,
        query_starts=(0, queries.stop - queries.start),
        key_starts=(0, keys.stop - keys.start),
        causal=False,
        varies=_varies(layout),
    )


def _varies(layout: ZigzagLayout) -> bool:
    """One document fills the sequence, which has one length in training; several cut it anew."""
    return len(layout.document_lengths) > 1


def _cuts(starts: tuple[int, ...], chunk: range) -> list[int]:
    """Global indices at which documents start inside a chunk, with both ends of the chunk."""
    inside = starts[
        bisect.bisect_right(starts, chunk.start) : bisect.bisect_left(starts, chunk.stop)
    ]
    return [chunk.start, *inside, chunk.stop]


def _document(starts: tuple[int, ...], index: int) -> tuple[int, int]:
    """Start and stop of the document that the token at the global `index` belongs to."""
    following = bisect.bisect_right(starts, index)
    return starts[following - 1], starts[following]


def _rows_before(index: int, chunk: range) -> int:
    """How many rows of `chunk` lie before the global `index`."""
    return min(max(index - chunk.start, 0), len(chunk))


def _slices(starts: tuple[int, ...]) -> Iterator[slice]:
    return (slice(start, stop) for start, stop in itertools.pairwise(starts))
