"""Preference shards: a row is a question about an encoded video, two answers, and what the model
before training thinks of them.

    <folder>/part-00000.arrow ...      Arrow IPC, one record batch for each row
    <folder>/part-00000.json ...       what the part holds and what was left out
    <folder>/preference_shards.json    the manifest, written last: every part is there

Visual tokens are not in here: a row names its video in the embedding store, which encodes it once
for policy, reference and every other use. Shards may hold its pixels, as vision shards do
(`data.images.shards`): who trains the encoder needs those instead.
How parts are read and written is `files.parts`' matter.

Shapes: T tokens of a row, both answers with their prompt, A answers, F frames, G grids, Y/X/C pixel
axes, S visual tokens, 2 the grid of one and its number there.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longva_ray.data.images.shards import pixel_columns
from longva_ray.data.preferences.seen import Medium
from longva_ray.files.digest import Digest
from longva_ray.files.parts import Kind, PartWriter, Shards
from longva_ray.settings.base import from_dict
from longva_ray.shards.schema import EncodingSpec
from longva_ray.vision.encoding import Cut

FORMAT_VERSION = 1

_COLUMNS = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("document_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("answer_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("reference", pa.list_(pa.float64()), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("medium", pa.list_(pa.string()), nullable=False),
        pa.field("frames", pa.list_(pa.int32()), nullable=False),
    ]
)

_PIXELS = pa.schema(
    [
        pa.field("pixels", pa.large_binary(), nullable=False),
        pa.field("sources", pa.list_(pa.int32()), nullable=False),
    ]
)
"""Further columns of shards with pixels."""


class PreferenceShardError(ValueError):
    """A folder holds no preference shards, damaged ones, or those of another model."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceRow:
    """A pair: two documents, each the prompt and one answer, the chosen one first."""

    pair_id: str
    medium: Medium
    """What the question is about, in the embedding store."""
    frames_F: npt.NDArray[np.int32]
    """Which of its encoded frames; none of an image."""
    input_ids_T: npt.NDArray[np.int32]
    """Every placeholder repeated for its visual tokens."""
    document_lengths: tuple[int, ...]
    answer_lengths: tuple[int, ...]
    """Tokens at the end of each document that are its answer."""
    reference: tuple[float, ...]
    """Log-probability of each answer under the model before training; empty if training is to
    compute it."""
    cut: Cut | None = None
    """Pixels of what both documents show, where shards hold them; read-only from disk."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePart:
    """One file of preference shards."""

    num_samples: int
    num_tokens: int
    num_trained: int
    """Tokens that are answers."""
    num_bytes: int
    digest: str
    """Hash of everything in the rows."""
    row_tokens: tuple[int, ...] = ()
    row_grids: tuple[int, ...] = ()
    """As in the manifest."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceMetadata:
    """The manifest: what is in the folder and where it came from."""

    num_samples: int
    num_left_out: int
    """Pairs that could not be used; report.json names each."""
    num_tokens: int
    num_trained: int
    store: str
    """The embedding store that the rows' media are in."""
    encoding: dict[str, Any]
    """How videos are encoded there, as `EncodingSpec` is stored."""
    reference: str
    """Fingerprint of the checkpoint that prepared them, which the log-probabilities are of."""
    source: tuple[str, ...]
    """The files that were read."""
    key: str
    """Hash of all that decides what is written; every part carries it too."""
    content_key: str
    """Hash of everything in the rows."""
    settings: dict[str, Any]
    versions: dict[str, str]
    part_rows: tuple[int, ...]
    part_bytes: tuple[int, ...]
    row_tokens: tuple[int, ...] = ()
    """Tokens of each row, where shards hold pixels."""
    row_grids: tuple[int, ...] = ()
    """Grids of each row, where shards hold pixels."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer; None in shards of earlier versions."""
    format_version: int = FORMAT_VERSION

    @property
    def rows_of_parts(self) -> tuple[int, ...]:
        return self.part_rows

    @property
    def run_key(self) -> str:
        return self.key

    @property
    def spec(self) -> EncodingSpec:
        return EncodingSpec.from_stored(self.encoding)

    @property
    def numbers(self) -> dict[str, int]:
        """Where every pair went, for the report."""
        return {
            "pairs": self.num_samples + self.num_left_out,
            "written": self.num_samples,
            "tokens": self.num_tokens,
            "answer_tokens": self.num_trained,
        }

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "PreferenceMetadata":
        return from_dict(cls, json.loads(text))


PREFERENCE_SHARDS = Kind(
    title="preference shards",
    manifest="preference_shards.json",
    key_field=b"longva_ray.key",
    format_version=FORMAT_VERSION,
    parse=PreferenceMetadata.from_json,
    error=PreferenceShardError,
    job="jobs/prepare_preferences.py",
    again="prepare the preferences again",
    hold_out="--preferences.held-out",
)


class PreferenceShards(Shards[PreferenceMetadata, PreferenceRow]):
    """The rows of one folder or URI (`files.parts.Shards`)."""

    kind = PREFERENCE_SHARDS

    def _row(self, batch: pa.RecordBatch) -> PreferenceRow:
        return PreferenceRow(
            pair_id=batch.column("pair_id")[0].as_py(),
            medium=Medium(*batch.column("medium")[0].as_py()),
            frames_F=batch.column("frames")[0].values.to_numpy(),
            input_ids_T=batch.column("input_ids")[0].values.to_numpy(),
            document_lengths=tuple(batch.column("document_lengths")[0].as_py()),
            answer_lengths=tuple(batch.column("answer_lengths")[0].as_py()),
            reference=tuple(batch.column("reference")[0].as_py()),
            cut=self._cut(batch) if self.metadata.row_grids else None,
        )

    def _cut(self, batch: pa.RecordBatch) -> Cut:
        size = self.metadata.spec.frame_size
        pixels = np.frombuffer(batch.column("pixels")[0].as_buffer(), dtype=np.uint8)
        return Cut(
            grids_GYXC=pixels.reshape(-1, size, size, 3),
            source_S2=batch.column("sources")[0].values.to_numpy().reshape(-1, 2),
        )


class PreferenceShardWriter(PartWriter[PreferenceMetadata]):
    """Writes the parts of one run, from any process, and its manifest at the end."""

    def __init__(self, place: str, *, key: str, pixels: bool = False) -> None:
        """`pixels`: whether rows have them."""
        columns = pa.unify_schemas([_COLUMNS, _PIXELS]) if pixels else _COLUMNS
        super().__init__(place, PREFERENCE_SHARDS, columns, key)

    def write_part(self, part: int, rows: Iterable[PreferenceRow]) -> PreferencePart:
        """Write one part, a row at a time, under its final name, or not at all."""
        account = _Account()
        num_bytes = self._write(part, (self._batch(row) for row in account.count(rows)))
        return account.part(num_bytes)

    def has_part(self, part: int, record: PreferencePart) -> bool:
        """Whether an earlier run under the same key wrote the part that this record is of."""
        return self._holds(part, num_rows=record.num_samples, num_bytes=record.num_bytes)

    def _batch(self, row: PreferenceRow) -> pa.RecordBatch:
        values = {
            "input_ids": row.input_ids_T,
            "document_lengths": row.document_lengths,
            "answer_lengths": row.answer_lengths,
            "reference": row.reference,
            "pair_id": row.pair_id,
            "medium": row.medium,
            "frames": row.frames_F,
        }
        columns = [pa.array([values[field.name]], field.type) for field in _COLUMNS]
        if row.cut is not None:
            columns += pixel_columns(row.cut.grids_GYXC, row.cut.source_S2)
        return pa.record_batch(columns, schema=self._schema)


class _Account:
    """What is in the rows that pass through."""

    def __init__(self) -> None:
        self._digest = Digest()
        self._samples = self._labels = 0
        self._tokens: list[int] = []
        self._grids: list[int] = []

    def count(self, rows: Iterable[PreferenceRow]) -> Iterator[PreferenceRow]:
        for row in rows:
            for array in (row.input_ids_T, row.frames_F):
                self._digest.add(np.ascontiguousarray(array).data)
            told = (row.pair_id, tuple(row.medium), row.document_lengths, row.answer_lengths)
            self._digest.add(repr((*told, row.reference)))
            if row.cut is not None:
                self._digest.add(np.ascontiguousarray(row.cut.grids_GYXC).data)
                self._digest.add(np.ascontiguousarray(row.cut.source_S2).data)
                self._grids.append(len(row.cut.grids_GYXC))
            self._samples += 1
            self._tokens.append(len(row.input_ids_T))
            self._labels += sum(row.answer_lengths)
            yield row

    def part(self, num_bytes: int) -> PreferencePart:
        return PreferencePart(
            num_samples=self._samples,
            num_tokens=sum(self._tokens),
            num_trained=self._labels,
            num_bytes=num_bytes,
            digest=self._digest.hex(),
            row_tokens=tuple(self._tokens) if self._grids else (),
            row_grids=tuple(self._grids),
        )
