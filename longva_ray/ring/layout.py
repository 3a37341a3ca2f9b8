"""Which token lives on which rank: the zigzag layout, and the documents inside the sequence.

A sequence of T tokens is padded once, at its end, to 2 x W chunks of equal length; rank r of W
holds chunk r and chunk 2W-1-r, in that order:

    W = 2      | chunk 0 | chunk 1 | chunk 2 | chunk 3 |
                  rank 0    rank 1    rank 1    rank 0

Under a causal mask late tokens cost more than early ones, and an early chunk paired with a late one
gives every rank the same work. Everything here is integer arithmetic on Python tuples known to
every rank, so no rank ever has to ask another rank, or the device, where a document ends.

Padding is a separate document after all others: no real token can see it, and no label points into
it. The documents are the same for every row of a batch; rows with different documents are packed
one after another into a single row. Shapes: B batch, T tokens of the whole sequence, L tokens on
this rank (2 chunks).

What it does not do: it moves nothing between processes. Each rank cuts its share out of the whole
sequence.

Source: zigzag sharding, section 3.1 of the paper and
https://github.com/zhuzilin/ring-flash-attention/issues/2.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch

IGNORE_INDEX = -100
"""The label that every loss skips, as in torch and transformers."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ZigzagLayout:
    """One sequence, its documents, and its division over `world_size` ranks.

    Raises ValueError for a document or a world without members.
    """

    document_lengths: tuple[int, ...]
    """Tokens of each packed document, in order, without padding; one entry for a sequence that is
    one document.
    """
    world_size: int
    """Ranks in the ring."""

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"world_size must be at least 1, got {self.world_size}")
        if len(self.document_lengths) == 0 or min(self.document_lengths) < 1:
            raise ValueError(
                "document_lengths must hold at least one document of at least one token, got "
                f"{self.document_lengths}; leave empty documents out"
            )

    @property
    def num_tokens(self) -> int:
        """T without padding."""
        return sum(self.document_lengths)

    @property
    def chunk_tokens(self) -> int:
        """Tokens in one of the 2W chunks."""
        return -(-self.num_tokens // (2 * self.world_size))

    @property
    def local_tokens(self) -> int:
        """L, the tokens on each rank, padding included."""
        return 2 * self.chunk_tokens

    @property
    def padded_tokens(self) -> int:
        """T with padding."""
        return self.local_tokens * self.world_size

    @property
    def document_starts(self) -> tuple[int, ...]:
        """Where each document starts, then the padded length: what kernels call cu_seqlens.

        Padding, where there is any, is the last document.
        """
        starts = tuple(itertools.accumulate(self.document_lengths, initial=0))
        return starts if starts[-1] == self.padded_tokens else (*starts, self.padded_tokens)

    def chunks(self, rank: int) -> tuple[range, range]:
        """The global indices of the two chunks that `rank` holds, the earlier one first."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank must lie in [0, {self.world_size}), got {rank}")
        size = self.chunk_tokens
        early, late = rank * size, (2 * self.world_size - 1 - rank) * size
        return range(early, early + size), range(late, late + size)

    def token_indices(self, rank: int) -> torch.Tensor:
        """Global index of each local token, (L,) int64, padding included."""
        early, late = self.chunks(rank)
        return torch.cat([torch.arange(c.start, c.stop) for c in (early, late)])

    def positions(self, rank: int) -> torch.Tensor:
        """Position of each local token in its document, (L,) int64: for the rotary embedding."""
        return self.split(self._position_in_document(), rank, dim=0, pad_value=0)

    def _position_in_document(self) -> torch.Tensor:
        starts = self.document_starts
        return torch.cat([torch.arange(stop - start) for start, stop in itertools.pairwise(starts)])

    def pad(self, x: torch.Tensor, *, dim: int, pad_value: float) -> torch.Tensor:
        """Append `pad_value` to `x` along `dim`, from T to the padded length.

        A tensor that already has the padded length is returned as it is. Raises ValueError for any
        other length.
        """
        length = x.shape[dim]
        if length == self.padded_tokens:
            return x
        if length != self.num_tokens:
            raise ValueError(
                f"dimension {dim} holds {length} tokens but the documents of the layout hold "
                f"{self.num_tokens} ({self.padded_tokens} with padding); build the layout from the "
                "lengths of this sequence"
            )
        shape = list(x.shape)
        shape[dim] = self.padded_tokens - length
        return torch.cat([x, x.new_full(shape, pad_value)], dim=dim)

    def split(self, x: torch.Tensor, rank: int, *, dim: int, pad_value: float) -> torch.Tensor:
        """The share of `rank` of a whole-sequence tensor: T -> L tokens along `dim`.

        `pad_value` is what padding holds: a valid token id for ids, 0 for embeddings,
        `IGNORE_INDEX` for labels.
        """
        padded = self.pad(x, dim=dim, pad_value=pad_value)
        early, late = self.chunks(rank)
        halves = [padded.narrow(dim, chunk.start, len(chunk)) for chunk in (early, late)]
        return torch.cat(halves, dim=dim)

    def merge(self, shards: Sequence[torch.Tensor], *, dim: int) -> torch.Tensor:
        """The inverse of `split`: the shards of rank 0..W-1 -> T tokens along `dim`, no padding.

        Raises ValueError when there is not one shard of L tokens a rank.
        """
        lengths = [shard.shape[dim] for shard in shards]
        if lengths != [self.local_tokens] * self.world_size:
            raise ValueError(
                f"merge wants {self.world_size} shards of {self.local_tokens} tokens along "
                f"dimension {dim}, got lengths {lengths}"
            )
        ordered = zigzag_to_sequence(shards, dim=dim)
        return ordered.narrow(dim, 0, self.num_tokens)


def zigzag_to_sequence(shards: Sequence[torch.Tensor], *, dim: int) -> torch.Tensor:
    """Shards of rank 0..W-1, L tokens each along `dim` -> the padded sequence in order."""
    halves = [shard.chunk(2, dim=dim) for shard in shards]
    early = [half[0] for half in halves]
    late = [half[1] for half in reversed(halves)]
    return torch.cat(early + late, dim=dim)


def next_token_labels(
    token_ids_BT: torch.Tensor, layout: ZigzagLayout, *, ignore_index: int = IGNORE_INDEX
) -> torch.Tensor:
    """Labels for next-token prediction, shifted while the sequence is whole: (B, T) -> (B, T).

    Position t is labelled with token t+1; the last token of every document is labelled
    `ignore_index`, because what follows it belongs to another document. Shift here, before
    `ZigzagLayout.split`: the token after the last one of a chunk lives on another rank. Labels
    with holes (a prompt that is not trained on) go in with their holes and keep them.
    """
    starts = layout.document_starts
    labels_BT = torch.full_like(token_ids_BT, ignore_index)
    labels_BT[:, :-1] = token_ids_BT[:, 1:]
    last_tokens = [stop - 1 for stop in starts[1:] if stop <= layout.num_tokens]
    labels_BT[:, last_tokens] = ignore_index
    return labels_BT
