"""Token shards: packed training sequences on disk, and where the documents inside them end.

    <folder>/part-00000.arrow ...   Arrow IPC, a record batch for each row: input_ids [T] int32,
                                    document_lengths, num_padding
    <folder>/token_shards.json      the manifest, written last: every part is there

    shards = TokenShards("/data/tokens-224k")     # or a URI
    sequence = shards[0]                          # T tokens, mapped from disk, not copied
    layout = ZigzagLayout(document_lengths=sequence.document_lengths, world_size=4)

Every row holds exactly T tokens. Where documents ran out, padding fills the row and is a document
of its own, the last of the row, so a layout takes the lengths as they are; only the labels of the
last `num_padding` tokens have to be ignored. Tokens that are read but not trained on (a prompt) are
stored complemented; `TokenSequence` tells them apart. On a local disk a row is a view on mapped
pages; from an object store it is fetched, without the others of its part. What it does not do:
shuffle, batch, or shift labels.

Shapes: T tokens of one sequence, N sequences of a part.
"""

import bisect
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
from transformers import PreTrainedTokenizerBase

from longva_ray.files.folder import open_ipc, part_name, write_atomically
from longva_ray.files.places import open_place
from longva_ray.lm.base_models import tokenizer_fingerprint
from longva_ray.settings.base import from_dict

FORMAT_VERSION = 2


MANIFEST_NAME = "token_shards.json"


_KEY = b"longva_ray.content_key"


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
                f"num_padding is {self.num_padding}, but padding is a document of its own and the "
                f"last one has {lengths[-1]} tokens"
            )

    @property
    def input_ids_T(self) -> TokenIds:
        """Exactly T token ids."""
        return unmark(self.marked_ids_T)

    @property
    def is_label_T(self) -> npt.NDArray[np.bool_]:
        """Where the token is trained on: neither read only nor padding."""
        is_label_T = self.marked_ids_T >= 0
        is_label_T[len(is_label_T) - self.num_padding :] = False
        return is_label_T


def mark_read_only(ids: TokenIds, where: npt.NDArray[np.bool_]) -> TokenIds:
    """Complement (~id, which is negative) the ids of tokens that are read but are no labels."""
    return np.where(where, ~ids, ids)


def unmark(marked_ids: TokenIds) -> TokenIds:
    """The token ids, whatever their marks; the array itself where nothing is marked."""
    return np.maximum(marked_ids, ~marked_ids) if (marked_ids < 0).any() else marked_ids


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """One file of shards, as the manifest lists it."""

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
    """The token that stands before (BOS) or behind (EOS) every document."""
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
    """Packages that had a say in the tokens."""
    part_sequences: tuple[int, ...]
    part_bytes: tuple[int, ...]
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TokenShardsMetadata":
        return from_dict(cls, json.loads(text))


class TokenShards:
    """The sequences of one folder or URI: `len(shards)`, `shards[i]`, iteration.

    Travels between processes by name, so workers may be handed one. Raises TokenShardError when the
    place holds no complete token shards.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self._filesystem, self._root = open_place(self.place)
        self.metadata = read_manifest(self.place)
        self._first_row = [0, *itertools.accumulate(self.metadata.part_sequences)]
        self._readers: dict[int, pa.ipc.RecordBatchFileReader] = {}

    def __len__(self) -> int:
        return self.metadata.num_sequences

    def __getitem__(self, index: int) -> TokenSequence:
        """Sequence `index`; negative ones count from the end. IndexError outside the shards."""
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"sequence {index} of token shards that hold {len(self)}")
        part = bisect.bisect_right(self._first_row, row) - 1
        if part not in self._readers:
            self._readers[part] = self._open(part)
        batch = self._readers[part].get_batch(row - self._first_row[part])
        return TokenSequence(
            marked_ids_T=batch.column("input_ids").flatten().to_numpy(zero_copy_only=True),
            document_lengths=tuple(batch.column("document_lengths")[0].as_py()),
            num_padding=batch.column("num_padding")[0].as_py(),
        )

    def __iter__(self) -> Iterator[TokenSequence]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[type["TokenShards"], tuple[str]]:
        return TokenShards, (self.place,)

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

    def _open(self, part: int) -> pa.ipc.RecordBatchFileReader:
        path = f"{self._root}/{part_name(part)}"
        info = self._filesystem.get_file_info(path)
        expected = self.metadata.part_bytes[part]
        if info.type != pyarrow.fs.FileType.File:
            raise TokenShardError(f"{path} is gone although {MANIFEST_NAME} lists it; {_AGAIN}")
        if info.size != expected:
            raise TokenShardError(
                f"{path} has {info.size} bytes instead of {expected}: it was cut short or "
                f"replaced; {_AGAIN}"
            )
        reader = open_ipc(self._filesystem, path)
        if reader.schema.metadata[_KEY].decode() != self.metadata.content_key:
            raise TokenShardError(f"{path} comes from another run than its manifest; {_AGAIN}")
        return reader


_AGAIN = f"delete the folder's {MANIFEST_NAME} and prepare the text again to restore it"


def read_manifest(place: str) -> TokenShardsMetadata:
    """The manifest of a folder or URI; TokenShardError says what is wrong with it."""
    filesystem, root = open_place(place)
    try:
        with filesystem.open_input_stream(f"{root}/{MANIFEST_NAME}") as file:
            text = file.read().decode()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TokenShardError(
            f"{place} is no folder of token shards: it has no {MANIFEST_NAME}, which is written "
            "last; make one with jobs/prepare_text.py, or run that again if it was interrupted"
        ) from error
    try:
        metadata = TokenShardsMetadata.from_json(text)
    except (ValueError, TypeError) as error:
        raise TokenShardError(
            f"{place}/{MANIFEST_NAME} is not a manifest of this version ({error}); delete the "
            "folder and prepare the text again"
        ) from error
    if metadata.format_version != FORMAT_VERSION:
        raise TokenShardError(
            f"{place} has format {metadata.format_version}, this version reads {FORMAT_VERSION}; "
            "prepare the text again"
        )
    return metadata


class TokenShardWriter:
    """Writes the parts of one run, from any process, and its manifest at the end.

    A file under its final name is complete, and equal rows under an equal key give equal bytes.
    """

    def __init__(self, place: str, *, content_key: str, sequence_length: int) -> None:
        self._filesystem, self._root = open_place(place)
        self._schema = pa.schema(
            [
                pa.field("input_ids", pa.list_(pa.int32(), sequence_length), nullable=False),
                pa.field("document_lengths", pa.list_(pa.int32()), nullable=False),
                pa.field("num_padding", pa.int32(), nullable=False),
            ],
            metadata={_KEY: content_key.encode()},
        )
        self._sequence_length = sequence_length

    def write_part(self, part: int, sequences: Sequence[TokenSequence]) -> PartRecord:
        """Write one part under its final name, or not at all."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self._schema) as writer:
            for sequence in sequences:
                writer.write_batch(self._batch(sequence))
        content = sink.getvalue()
        write_atomically(self._filesystem, self._root, part_name(part), content)
        return PartRecord(
            num_sequences=len(sequences),
            num_bytes=content.size,
            largest_id=max(int(sequence.input_ids_T.max()) for sequence in sequences),
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

    def existing_part(self, part: int, num_sequences: int) -> PartRecord | None:
        """The part if an earlier run under the same key wrote it, else None."""
        path = f"{self._root}/{part_name(part)}"
        info = self._filesystem.get_file_info(path)
        if info.type != pyarrow.fs.FileType.File:
            return None
        try:
            reader = open_ipc(self._filesystem, path)
            if not reader.schema.equals(self._schema, check_metadata=True):
                return None
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError):
            return None
        if len(batches) != num_sequences:
            return None
        ids = (batch.column("input_ids").flatten().to_numpy() for batch in batches)
        return PartRecord(
            num_sequences=num_sequences,
            num_bytes=info.size,
            largest_id=max(int(unmark(each).max()) for each in ids),
        )

    def commit(self, metadata: TokenShardsMetadata) -> None:
        """Declare the shards complete."""
        content = metadata.to_json().encode()
        write_atomically(self._filesystem, self._root, MANIFEST_NAME, content)
