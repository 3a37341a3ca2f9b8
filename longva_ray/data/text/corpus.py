"""All tokenised documents of a run, and the rows that are packed from them.

    groups -> CorpusIndex (lengths, domains, where each document lies) -> TokenSequence by PackPlan

Shapes: D documents, P pieces, T tokens of one sequence.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from longva_ray.data.text.groups import TOKEN_DTYPE, GroupCounts, TokenisedGroup, tokens_name
from longva_ray.data.text.packing import IntArray, PackPlan
from longva_ray.data.text.shards import TokenPart, TokenSequence, TokenShardWriter
from longva_ray.files.folder import Folder


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CorpusIndex:
    """Where each document is and how long: numbers only, held by the driver."""

    lengths_D: IntArray
    domains_D: IntArray
    group_D: IntArray
    offset_D: IntArray
    """First token of the document in its group's token file."""
    domain_names: tuple[str, ...]
    """Sorted, with those that have only empty documents."""
    counts: tuple[GroupCounts, ...]
    number_D: npt.NDArray[np.uint64] | None
    """What says which documents are held out; None where none are."""

    @classmethod
    def of(cls, groups: Sequence[TokenisedGroup]) -> "CorpusIndex":
        names = sorted({name for g in groups for name in (*g.domain_names, *g.counts.empty)})
        number = {name: index for index, name in enumerate(names)}
        domains = [
            np.array([number[name] for name in group.domain_names], dtype=np.int64)[group.domains_D]
            for group in groups
        ]
        lengths = [group.lengths_D.astype(np.int64) for group in groups]
        return cls(
            lengths_D=np.concatenate(lengths),
            domains_D=np.concatenate(domains),
            group_D=np.repeat(np.arange(len(groups)), [len(each) for each in lengths]),
            offset_D=np.concatenate([np.cumsum(each) - each for each in lengths]),
            domain_names=tuple(names),
            counts=tuple(group.counts for group in groups),
            number_D=None
            if any(group.number_D is None for group in groups)
            else np.concatenate([group.number_D for group in groups]),
        )

    def only(self, is_kept_D: npt.NDArray[np.bool_]) -> "CorpusIndex":
        """The corpus without the other documents."""
        return dataclasses.replace(
            self,
            lengths_D=self.lengths_D[is_kept_D],
            domains_D=self.domains_D[is_kept_D],
            group_D=self.group_D[is_kept_D],
            offset_D=self.offset_D[is_kept_D],
            number_D=None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PartPlan:
    """Everything a worker has to know to write one part: it travels with its task."""

    part: int
    group_P: npt.NDArray[np.int32]
    offset_P: IntArray
    """First token of the piece in its group's token file."""
    length_P: npt.NDArray[np.int32]
    pieces_in_sequence: npt.NDArray[np.int32]
    """Pieces of each sequence of the part."""

    @property
    def num_sequences(self) -> int:
        return len(self.pieces_in_sequence)


def part_plans(corpus: CorpusIndex, plan: PackPlan, sequences_in_part: int) -> list[PartPlan]:
    """Divide the sequences of a plan into parts."""
    plans = []
    for part, start in enumerate(range(0, plan.num_sequences, sequences_in_part)):
        stop = min(start + sequences_in_part, plan.num_sequences)
        pieces = plan.pieces(start, stop)
        document = plan.document_P[pieces]
        plans.append(
            PartPlan(
                part=part,
                group_P=corpus.group_D[document].astype(np.int32),
                offset_P=corpus.offset_D[document] + plan.start_P[pieces],
                length_P=plan.length_P[pieces].astype(np.int32),
                pieces_in_sequence=np.diff(plan.first_piece[start : stop + 1]).astype(np.int32),
            )
        )
    return plans


class PackPart:
    """Worker: reads the pieces of one part and writes its sequences."""

    def __init__(
        self, work: Folder, writer: TokenShardWriter, *, sequence_length: int, pad_id: int
    ) -> None:
        self._work = work
        self._writer = writer
        self._sequence_length = sequence_length
        self._pad_id = pad_id

    def __call__(self, part: int, plan: PartPlan) -> TokenPart:
        """Write one part; its bytes follow from the plan and the tokens alone."""
        tokens = self._read(plan)
        sequences: list[TokenSequence] = []
        piece = token = 0
        for count in plan.pieces_in_sequence.tolist():
            lengths = plan.length_P[piece : piece + count].tolist()
            used = sum(lengths)
            padding = self._sequence_length - used
            ids_T = np.full(self._sequence_length, self._pad_id, dtype=np.int32)
            ids_T[:used] = tokens[token : token + used]
            sequences.append(
                TokenSequence(
                    marked_ids_T=ids_T,
                    document_lengths=(*lengths, padding) if padding else tuple(lengths),
                    num_padding=padding,
                )
            )
            piece, token = piece + count, token + used
        return self._writer.write_part(part, sequences)

    def _read(self, plan: PartPlan) -> npt.NDArray[np.int32]:
        """Tokens of all pieces after one another; read file by file and front to back."""
        lengths = plan.length_P.astype(np.int64)
        target_P = np.cumsum(lengths) - lengths
        tokens = np.empty(int(lengths.sum()), dtype=TOKEN_DTYPE)
        order = np.lexsort((plan.offset_P, plan.group_P))
        for group in np.unique(plan.group_P):
            inside = order[plan.group_P[order] == group]
            with self._work.open(tokens_name(int(group))) as file:
                for piece in inside.tolist():
                    length, target = int(lengths[piece]), int(target_P[piece])
                    start = int(plan.offset_P[piece]) * TOKEN_DTYPE.itemsize
                    content = file.read_at(length * TOKEN_DTYPE.itemsize, start)
                    tokens[target : target + length] = np.frombuffer(content, dtype=TOKEN_DTYPE)
        return tokens
