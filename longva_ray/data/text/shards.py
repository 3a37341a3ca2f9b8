"""Token shards: packed training sequences on disk, and where the documents inside them end.

    <folder>/part-00000.arrow ...   Arrow IPC, a record batch for each row: input_ids [T] int32,
                                    document_lengths, num_padding
    <folder>/token_shards.json      the manifest, written last: every part is there

    shards = TokenShards("/data/tokens-224k")     # or a URI
    sequence = shards[0]                          # T tokens, mapped from disk, not copied
    layout = ZigzagLayout(document_lengths=sequence.document_lengths, world_size=4)

Every row holds exactly T tokens. Where documents ran out, padding fills the row. It counts as one
more document, the last of the row, so a layout takes the lengths as they are; only the labels of
the last `num_padding` tokens have to be ignored. Tokens that are read but not trained on (a prompt)
are stored complemented; `TokenSequence` tells them apart. How parts are read and written is
`files.parts`' matter. What it does not do: shuffle, batch, or shift labels.

Shapes: T tokens of one sequence, N sequences of a part.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from longva_ray.files.parts import Kind, PartWriter, Shards
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.settings.base import from_dict

FORMAT_VERSION = 2

TokenIds = npt.NDArray[np.int32]


class TokenShardError(ValueError):
    """A folder holds no token shards, damaged ones, or those of another tokenizer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenSequence:
    """One row: a packed sequence.

    Raises ValueError when lengths and tokens do not add up.
    """

    marked_ids_T: TokenIds
    """Exactly T token ids, complemented (`mark_read_only`) where a token is no label; not writable
    when they come from disk."""
    document_lengths: tuple[int, ...]
    """Tokens of each document or piece of one, in order; they sum to T, padding included as the
    last document."""
    num_padding: int
    """Tokens at the end that are padding, whose labels are to be ignored; mostly 0."""

    def __post_init__(self) -> None:
        lengths = self.document_lengths
        if sum(lengths) != len(self.marked_ids_T) or min(lengths, default=0) < 1:
            raise ValueError(
                f"documents of {lengths} tokens do not fill a sequence of {len(self.marked_ids_T)}"
            )
        if self.num_padding not in (0, lengths[-1]):
            raise ValueError(
                f"num_padding is {self.num_padding}, but padding is one whole document and the "
                f"last one has {lengths[-1]} tokens"
            )

    @property
    def input_ids_T(self) -> TokenIds:
        """Exactly T token ids."""
        return unmark(self.marked_ids_T)

    @property
    def is_label_T(self) -> npt.NDArray[np.bool_]:
        """True where a token is trained on: it is neither read-only nor padding."""
        is_label_T = self.marked_ids_T >= 0
        is_label_T[len(is_label_T) - self.num_padding :] = False
        return is_label_T


def mark_read_only(ids: TokenIds, where: npt.NDArray[np.bool_]) -> TokenIds:
    """Complement (~id, which is negative) the ids of tokens that are read but are no labels."""
    return np.where(where, ~ids, ids)


def unmark(marked_ids: TokenIds) -> TokenIds:
    """The token ids, whatever their marks; the array itself where nothing is marked."""
    return np.maximum(marked_ids, ~marked_ids) if (marked_ids < 0).any() else marked_ids


def unlabelled(sequence: TokenSequence) -> TokenSequence:
    """The same tokens, none of them a label."""
    ids_T = sequence.input_ids_T
    every = np.ones(len(ids_T), np.bool_)
    return dataclasses.replace(sequence, marked_ids_T=mark_read_only(ids_T, every))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenPart:
    """One file of token shards."""

    num_sequences: int
    num_bytes: int
    largest_id: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenShardsMetadata:
    """The manifest: what is in the folder and where it came from."""

    sequence_length: int
    """T."""
    num_sequences: int
    num_tokens: int
    """Tokens without padding."""
    num_padding: int
    largest_id: int
    """Largest token id in the shards: a model needs a row of its embedding for it."""
    tokenizer_fingerprint: str
    vocabulary_size: int
    """Tokens that the tokenizer knows, special ones included."""
    separator_id: int
    """The token that stands before (BOS) or after (EOS) every document."""
    seed: int
    source: tuple[str, ...]
    """Names of the files that were read, in order."""
    source_fingerprint: str
    """Hash over names, sizes and times of those files."""
    content_key: str
    """Hash of everything that decided the tokens; every part carries it too."""
    settings: dict[str, Any]
    """The resolved settings that the shards were made with."""
    versions: dict[str, str]
    """Packages that the tokens depend on."""
    part_sequences: tuple[int, ...]
    part_bytes: tuple[int, ...]
    format_version: int = FORMAT_VERSION

    @property
    def rows_of_parts(self) -> tuple[int, ...]:
        return self.part_sequences

    @property
    def run_key(self) -> str:
        return self.content_key

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TokenShardsMetadata":
        return from_dict(cls, json.loads(text))


TOKEN_SHARDS = Kind(
    title="token shards",
    manifest="token_shards.json",
    key_field=b"longva_ray.content_key",
    format_version=FORMAT_VERSION,
    parse=TokenShardsMetadata.from_json,
    error=TokenShardError,
    job="jobs/prepare_text.py",
    again="prepare the text again",
    hold_out="--text.held-out",
)


class TokenShards(Shards[TokenShardsMetadata, TokenSequence]):
    """The sequences of one folder or URI (`files.parts.Shards`)."""

    kind = TOKEN_SHARDS

    def _row(self, batch: pa.RecordBatch) -> TokenSequence:
        return TokenSequence(
            marked_ids_T=batch.column("input_ids").flatten().to_numpy(zero_copy_only=True),
            document_lengths=tuple(batch.column("document_lengths")[0].as_py()),
            num_padding=batch.column("num_padding")[0].as_py(),
        )

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises TokenShardError unless the shards were made with this very tokenizer."""
        fingerprint = tokenizer_fingerprint(tokenizer)
        made_with = self.metadata.tokenizer_fingerprint
        if fingerprint != made_with:
            raise TokenShardError(
                f"{self.place} was made with tokenizer {made_with} "
                f"({self.metadata.vocabulary_size} tokens), but this model's is {fingerprint} "
                f"({len(tokenizer)} tokens): its ids mean other text; prepare the text again with "
                "this model"
            )


class TokenShardWriter(PartWriter[TokenShardsMetadata]):
    """Writes the parts of one run, from any process, and its manifest at the end."""

    def __init__(self, place: str, *, content_key: str, sequence_length: int) -> None:
        columns = [
            pa.field("input_ids", pa.list_(pa.int32(), sequence_length), nullable=False),
            pa.field("document_lengths", pa.list_(pa.int32()), nullable=False),
            pa.field("num_padding", pa.int32(), nullable=False),
        ]
        super().__init__(place, TOKEN_SHARDS, pa.schema(columns), content_key)
        self._sequence_length = sequence_length

    def write_part(self, part: int, sequences: Sequence[TokenSequence]) -> TokenPart:
        """Write one part under its final name, or not at all."""
        return TokenPart(
            num_sequences=len(sequences),
            num_bytes=self._write(part, map(self._batch, sequences)),
            largest_id=max(int(sequence.input_ids_T.max()) for sequence in sequences),
        )

    def existing_part(self, part: int, num_sequences: int) -> TokenPart | None:
        """The part if an earlier run under the same key wrote it, else None."""
        written = self._written(part, num_sequences)
        if written is None:
            return None
        try:
            batches = [written.reader.get_batch(row) for row in range(num_sequences)]
        except (pa.ArrowInvalid, OSError):
            return None
        ids = (batch.column("input_ids").flatten().to_numpy() for batch in batches)
        return TokenPart(
            num_sequences=num_sequences,
            num_bytes=written.num_bytes,
            largest_id=max(int(unmark(each).max()) for each in ids),
        )

    def _batch(self, sequence: TokenSequence) -> pa.RecordBatch:
        ids_T = sequence.marked_ids_T
        assert ids_T.shape == (self._sequence_length,)
        assert ids_T.dtype == np.int32
        columns = [
            pa.FixedSizeListArray.from_arrays(
                pa.array(ids_T), type=self._schema.field("input_ids").type
            ),
            pa.array([sequence.document_lengths], pa.list_(pa.int32())),
            pa.array([sequence.num_padding], pa.int32()),
        ]
        return pa.record_batch(columns, schema=self._schema)
