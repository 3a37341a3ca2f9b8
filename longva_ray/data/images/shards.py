"""Vision shards: packed rows of conversations on disk, their images already cut into grids.

    <folder>/part-00000.arrow ...   Arrow IPC, one record batch for each row: input_ids, trained,
                                    document_lengths, sample_ids, pixels, sources
    <folder>/part-00000.json ...    what the part holds and what was left out; says it is complete
    <folder>/vision_shards.json     the manifest, written last: every part is there

    shards = VisionShards("/data/captions")       # or a URI
    row = shards[0]                               # pixels are mapped from disk, not copied

A row holds whole samples, one after another, as documents that do not see each other. It is as
long as they are: at most a budget of tokens, and never padded, since the ring pads what it divides.
How parts are read and written is `files.parts`' matter.

Trade-off: pixels are stored as they go into the tower, 338 KB for a grid of 336 x 336, about five
times the JPEG file they came from. In return training decodes nothing, starts at any row without
delay and meets no broken file. What it does not do: shuffle rows.

Shapes: T tokens of a row, S visual tokens of it, 2 the grid of one and its number there, G grids,
Y/X/C pixel axes.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from longva_ray.data.images.samples import EncodedSample
from longva_ray.files.digest import Digest
from longva_ray.files.parts import Kind, PartWriter, Shards
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.settings.base import from_dict
from longva_ray.vision.encoding import GridSettings, join_sources

FORMAT_VERSION = 2

_COLUMNS = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("trained", pa.list_(pa.bool_()), nullable=False),
        pa.field("document_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("sample_ids", pa.list_(pa.string()), nullable=False),
        pa.field("pixels", pa.large_binary(), nullable=False),
        pa.field("sources", pa.list_(pa.int32()), nullable=False),
    ]
)


class VisionShardError(ValueError):
    """A folder holds no vision shards, damaged ones, or those of another model."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisionRow:
    """Samples after one another."""

    input_ids_T: npt.NDArray[np.int32]
    is_label_T: npt.NDArray[np.bool_]
    """Tokens that the model learns to produce."""
    document_lengths: tuple[int, ...]
    """Tokens of each sample."""
    sample_ids: tuple[str, ...]
    grids_GYXC: npt.NDArray[np.uint8]
    """Of all samples, in order; read-only when they come from disk."""
    source_S2: npt.NDArray[np.int32]
    """What stands at each placeholder, of these grids (`vision.encoding`)."""

    @classmethod
    def of(cls, samples: list[EncodedSample]) -> "VisionRow":
        return cls(
            input_ids_T=np.concatenate([sample.input_ids_T for sample in samples]),
            is_label_T=np.concatenate([sample.is_label_T for sample in samples]),
            document_lengths=tuple(len(sample.input_ids_T) for sample in samples),
            sample_ids=tuple(sample.sample_id for sample in samples),
            grids_GYXC=np.concatenate([sample.grids_GYXC for sample in samples]),
            source_S2=join_sources(
                [sample.source_S2 for sample in samples],
                [len(sample.grids_GYXC) for sample in samples],
            ),
        )


def unlabelled(row: VisionRow) -> VisionRow:
    """The same tokens and grids, none of them a label."""
    return dataclasses.replace(row, is_label_T=np.zeros_like(row.is_label_T))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisionPart:
    """One file of vision shards."""

    row_tokens: tuple[int, ...]
    row_grids: tuple[int, ...]
    num_samples: int
    num_trained: int
    num_bytes: int
    digest: str
    """Hash of everything in the rows."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisionShardsMetadata:
    """The manifest: what is in the folder and where it came from."""

    row_tokens: tuple[int, ...]
    """Tokens of each row."""
    row_grids: tuple[int, ...]
    num_samples: int
    num_left_out: int
    """Samples that could not be used; report.json names each."""
    num_trained: int
    """Tokens that are answers."""
    grids: GridSettings
    tokenizer_fingerprint: str
    source: tuple[str, ...]
    """The files that were read."""
    key: str
    """Hash of samples and settings; every part carries it too."""
    content_key: str
    """Hash of everything in the shards, pixels included."""
    settings: dict[str, Any]
    versions: dict[str, str]
    part_rows: tuple[int, ...]
    part_bytes: tuple[int, ...]
    format_version: int = FORMAT_VERSION

    @property
    def rows_of_parts(self) -> tuple[int, ...]:
        return self.part_rows

    @property
    def run_key(self) -> str:
        return self.key

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "VisionShardsMetadata":
        return from_dict(cls, json.loads(text))


VISION_SHARDS = Kind(
    title="vision shards",
    manifest="vision_shards.json",
    key_field=b"longva_ray.key",
    format_version=FORMAT_VERSION,
    parse=VisionShardsMetadata.from_json,
    error=VisionShardError,
    job="jobs/prepare_images.py",
    again="prepare the images again",
    hold_out="--images.held-out",
)


class VisionShards(Shards[VisionShardsMetadata, VisionRow]):
    """The rows of one folder or URI (`files.parts.Shards`)."""

    kind = VISION_SHARDS

    def _row(self, batch: pa.RecordBatch) -> VisionRow:
        size = self.metadata.grids.grid_size
        pixels = np.frombuffer(batch.column("pixels")[0].as_buffer(), dtype=np.uint8)
        return VisionRow(
            input_ids_T=batch.column("input_ids")[0].values.to_numpy(),
            is_label_T=batch.column("trained")[0].values.to_numpy(zero_copy_only=False),
            document_lengths=tuple(batch.column("document_lengths")[0].as_py()),
            sample_ids=tuple(batch.column("sample_ids")[0].as_py()),
            grids_GYXC=pixels.reshape(-1, size, size, 3),
            source_S2=batch.column("sources")[0].values.to_numpy().reshape(-1, 2),
        )

    def check_model(self, grids: GridSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises VisionShardError unless a model takes just these grids and tokens."""
        made, wanted = dataclasses.asdict(self.metadata.grids), dataclasses.asdict(grids)
        made["tokenizer"] = self.metadata.tokenizer_fingerprint
        wanted["tokenizer"] = tokenizer_fingerprint(tokenizer)
        different = [
            f"{name} {made[name]!r} and not {wanted[name]!r}"
            for name in made
            if made[name] != wanted[name]
        ]
        if different:
            raise VisionShardError(
                f"{self.place} was prepared for another model, with {'; '.join(different)}; "
                "prepare the images again with this one"
            )


class VisionShardWriter(PartWriter[VisionShardsMetadata]):
    """Writes the parts of one run, from any process, and its manifest at the end."""

    def __init__(self, place: str, *, key: str) -> None:
        super().__init__(place, VISION_SHARDS, _COLUMNS, key)

    def write_part(self, part: int, rows: Iterable[VisionRow]) -> VisionPart:
        """Write one part, a row at a time, under its final name, or not at all."""
        account = _Account()
        num_bytes = self._write(part, (self._batch(row) for row in account.count(rows)))
        return account.part(num_bytes)

    def has_part(self, part: int, record: VisionPart) -> bool:
        """Whether an earlier run under the same key wrote the part that this record is of."""
        return self._holds(part, num_rows=len(record.row_tokens), num_bytes=record.num_bytes)

    def _batch(self, row: VisionRow) -> pa.RecordBatch:
        columns = [
            pa.array([row.input_ids_T], pa.list_(pa.int32())),
            pa.array([row.is_label_T], pa.list_(pa.bool_())),
            pa.array([row.document_lengths], pa.list_(pa.int32())),
            pa.array([row.sample_ids], pa.list_(pa.string())),
            *pixel_columns(row.grids_GYXC, row.source_S2),
        ]
        return pa.record_batch(columns, schema=self._schema)


def pixel_columns(
    grids_GYXC: npt.NDArray[np.uint8], source_S2: npt.NDArray[np.int32]
) -> list[pa.Array]:
    """The columns `pixels` and `sources` of one row; pixels are not copied."""
    pixels = pa.py_buffer(np.ascontiguousarray(grids_GYXC))
    ends = pa.py_buffer(np.array([0, pixels.size], dtype=np.int64))
    return [
        pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, pixels]),
        pa.array([source_S2.ravel()], pa.list_(pa.int32())),
    ]


class _Account:
    """What is in the rows that pass through."""

    def __init__(self) -> None:
        self._digest = Digest()
        self._tokens: list[int] = []
        self._grids: list[int] = []
        self._samples = self._labels = 0

    def count(self, rows: Iterable[VisionRow]) -> Iterator[VisionRow]:
        for row in rows:
            for array in (row.input_ids_T, row.is_label_T, row.grids_GYXC, row.source_S2):
                self._digest.add(np.ascontiguousarray(array).data)
            self._digest.add(repr(row.document_lengths))
            self._tokens.append(len(row.input_ids_T))
            self._grids.append(len(row.grids_GYXC))
            self._samples += len(row.sample_ids)
            self._labels += int(row.is_label_T.sum())
            yield row

    def part(self, num_bytes: int) -> VisionPart:
        return VisionPart(
            row_tokens=tuple(self._tokens),
            row_grids=tuple(self._grids),
            num_samples=self._samples,
            num_trained=self._labels,
            num_bytes=num_bytes,
            digest=self._digest.hex(),
        )
