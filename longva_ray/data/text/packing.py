"""Which piece of which document stands where in the packed sequences: arithmetic, no tokens yet.

    copies of each document -> shuffled stream of documents -> pieces of N sequences of T tokens

Default rule: the documents of the shuffled stream stand after one another; a sequence ends after T
tokens wherever that is, and the document it cuts goes on in the next sequence as a new piece. A
piece is a separate document to the attention: boundaries are at every document start and every
sequence start. A document longer than T gives several pieces. Only the end of the last sequence is
padding.

With `keep_whole` no document is cut: one that does not fit starts the next sequence, and the rest
of the sequence is padding.

Shapes: D documents, P pieces, N sequences.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """Pieces in the order in which they are written, and the sequence that each begins in."""

    document_P: IntArray
    """Number of the document that the piece is cut from."""
    start_P: IntArray
    """First token of the piece inside its document."""
    length_P: IntArray
    first_piece: IntArray
    """First piece of each sequence, then P: (N+1,)."""

    @property
    def num_sequences(self) -> int:
        return len(self.first_piece) - 1

    def pieces(self, start: int, stop: int) -> slice:
        """Pieces of the sequences start..stop."""
        return slice(int(self.first_piece[start]), int(self.first_piece[stop]))


def shuffled_stream(copies_D: IntArray, seed: int) -> IntArray:
    """Document numbers in the order in which they are packed, each as often as it was taken."""
    stream = np.repeat(np.arange(len(copies_D)), copies_D)
    return np.random.default_rng([seed, len(copies_D)]).permutation(stream)


def pack(
    stream: IntArray, lengths_D: IntArray, *, sequence_length: int, keep_whole: bool
) -> PackPlan:
    """Pack the stream by the module's rule.

    Raises ValueError if there is nothing to pack, or a document is to be kept whole and is longer
    than a sequence.
    """
    if len(stream) == 0:
        raise ValueError(
            "no document is left to pack: the text is empty, or --text.target-tokens is far below "
            "one document"
        )
    lengths = lengths_D[stream]
    if keep_whole:
        return _pack_whole(stream, lengths, sequence_length)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    cuts = np.union1d(starts, np.arange(0, total, sequence_length))
    entry = np.searchsorted(starts, cuts, side="right") - 1
    first_piece = np.searchsorted(cuts, np.arange(0, total, sequence_length))
    return PackPlan(
        document_P=stream[entry],
        start_P=cuts - starts[entry],
        length_P=np.diff(np.append(cuts, total)),
        first_piece=np.append(first_piece, len(cuts)),
    )


def _pack_whole(stream: IntArray, lengths: IntArray, sequence_length: int) -> PackPlan:
    too_long = int((lengths > sequence_length).sum())
    if too_long:
        raise ValueError(
            f"{too_long} documents, the longest of {int(lengths.max())} tokens, do not fit into a "
            f"sequence of {sequence_length} and are to be kept whole; raise "
            "--text.sequence-length, or set --text.no-keep-whole to cut them"
        )
    first_piece, used = [0], 0
    for piece, length in enumerate(lengths.tolist()):
        if used + length > sequence_length:
            first_piece.append(piece)
            used = 0
        used += length
    return PackPlan(
        document_P=stream,
        start_P=np.zeros_like(lengths),
        length_P=lengths,
        first_piece=np.array([*first_piece, len(stream)], dtype=np.int64),
    )
