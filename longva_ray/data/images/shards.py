"""Vision shards: packed rows of conversations on disk, their images already cut into grids.

    <folder>/part-00000.arrow ...   Arrow IPC, one record batch for each row: input_ids, trained,
                                    document_lengths, sample_ids, pixels, sources
    <folder>/part-00000.json ...    what the part holds and what was left out; says it is complete
    <folder>/vision_shards.json     the manifest, written last: every part is there

    shards = VisionShards("/data/captions")       # or a URI
    row = shards[0]                               # pixels are mapped from disk, not copied

A row holds whole samples, one behind the other, as documents that do not see each other. It is as
long as they are: at most a budget of tokens, and never padded, since the ring pads what it divides.

Trade-off: pixels are stored as they go into the tower, 338 KB for a grid of 336 x 336, about five
times the JPEG file they came from. In return training decodes nothing, starts at any row at once
and meets no broken file. What it does not do: shuffle rows.

Shapes: T tokens of a row, S visual tokens of it, 2 the grid of one and its number there, G grids,
Y/X/C pixel axes.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
from transformers import PreTrainedTokenizerBase

from longva_ray.data.images.samples import EncodedSample
from longva_ray.files.folder import INCOMING, open_ipc, part_name, write_atomically
from longva_ray.files.places import open_place
from longva_ray.lm.base_models import tokenizer_fingerprint
from longva_ray.settings.base import from_dict
from longva_ray.vision.encoding import GridSettings, join_sources

FORMAT_VERSION = 2


MANIFEST_NAME = "vision_shards.json"


_KEY = b"longva_ray.key"


_SCHEMA = pa.schema(
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
    """Samples one behind the other."""

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """One file of shards."""

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

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"


class VisionShards:
    """The rows of one folder or URI: `len(shards)`, `shards[i]`.

    Travels between processes by name. Raises VisionShardError when the place holds no complete
    vision shards.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._filesystem, self._root = open_place(place)
        self.metadata = read_manifest(place)
        self._first_row = [0, *itertools.accumulate(self.metadata.part_rows)]
        self._readers: dict[int, pa.ipc.RecordBatchFileReader] = {}

    def __len__(self) -> int:
        return len(self.metadata.row_tokens)

    def __getitem__(self, row: int) -> VisionRow:
        """Row `row`; IndexError outside the shards."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of vision shards that hold {len(self)}")
        part = bisect.bisect_right(self._first_row, row) - 1
        if part not in self._readers:
            self._readers[part] = self._open(part)
        batch = self._readers[part].get_batch(row - self._first_row[part])
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

    def __reduce__(self) -> tuple[type["VisionShards"], tuple[str]]:
        return VisionShards, (self.place,)

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

    def _open(self, part: int) -> pa.ipc.RecordBatchFileReader:
        path = f"{self._root}/{part_name(part)}"
        info, expected = self._filesystem.get_file_info(path), self.metadata.part_bytes[part]
        if info.type != pyarrow.fs.FileType.File or info.size != expected:
            raise VisionShardError(
                f"{path} has {info.size} bytes instead of {expected}: it is gone or was cut short "
                "or replaced; delete the folder and prepare the images again"
            )
        reader = open_ipc(self._filesystem, path)
        if reader.schema.metadata[_KEY].decode() != self.metadata.key:
            raise VisionShardError(
                f"{path} comes from another run than {MANIFEST_NAME}; delete the folder and "
                "prepare the images again"
            )
        return reader


def has_manifest(place: str) -> bool:
    filesystem, root = open_place(place)
    info = filesystem.get_file_info(f"{root}/{MANIFEST_NAME}")
    return bool(info.type == pyarrow.fs.FileType.File)


def read_manifest(place: str) -> VisionShardsMetadata:
    """The manifest of a folder or URI; VisionShardError says what is wrong with it."""
    filesystem, root = open_place(place)
    try:
        with filesystem.open_input_stream(f"{root}/{MANIFEST_NAME}") as file:
            values = json.loads(file.read())
        metadata = from_dict(VisionShardsMetadata, values)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VisionShardError(
            f"{place} is no folder of vision shards: it has no {MANIFEST_NAME}, which is written "
            "last; make one with jobs/prepare_images.py, or run that again if it was interrupted"
        ) from error
    except (ValueError, TypeError) as error:
        raise VisionShardError(
            f"{place}/{MANIFEST_NAME} is not a manifest of this version ({error}); delete the "
            "folder and prepare the images again"
        ) from error
    if metadata.format_version != FORMAT_VERSION:
        raise VisionShardError(
            f"{place} has format {metadata.format_version}, this version reads {FORMAT_VERSION}; "
            "delete the folder and prepare the images again"
        )
    return metadata


class VisionShardWriter:
    """Writes parts, from any process; a file under its final name is complete."""

    def __init__(self, place: str, *, key: str) -> None:
        self._filesystem, self._root = open_place(place)
        self._schema = _SCHEMA.with_metadata({_KEY: key.encode()})

    def write_part(self, part: int, rows: Iterable[VisionRow]) -> PartRecord:
        """Write one part, a row at a time, under its final name, or not at all."""
        digest = hashlib.blake2b(digest_size=16)
        tokens, grids, samples, trained = [], [], 0, 0
        temporary = f"{self._root}/{INCOMING}/{uuid.uuid4().hex}"
        self._filesystem.create_dir(f"{self._root}/{INCOMING}", recursive=True)
        with (
            self._filesystem.open_output_stream(temporary) as file,
            pa.ipc.new_file(file, self._schema) as writer,
        ):
            for row in rows:
                writer.write_batch(self._batch(row))
                for array in (row.input_ids_T, row.is_label_T, row.grids_GYXC, row.source_S2):
                    digest.update(np.ascontiguousarray(array).data)
                digest.update(repr(row.document_lengths).encode())
                tokens.append(len(row.input_ids_T))
                grids.append(len(row.grids_GYXC))
                samples += len(row.sample_ids)
                trained += int(row.is_label_T.sum())
        path = f"{self._root}/{part_name(part)}"
        self._filesystem.move(temporary, path)
        return PartRecord(
            row_tokens=tuple(tokens),
            row_grids=tuple(grids),
            num_samples=samples,
            num_trained=trained,
            num_bytes=self._filesystem.get_file_info(path).size,
            digest=digest.hexdigest(),
        )

    def commit(self, metadata: VisionShardsMetadata) -> None:
        """Declare the shards complete."""
        content = metadata.to_json().encode()
        write_atomically(self._filesystem, self._root, MANIFEST_NAME, content)

    def _batch(self, row: VisionRow) -> pa.RecordBatch:
        pixels = pa.py_buffer(np.ascontiguousarray(row.grids_GYXC))
        ends = pa.py_buffer(np.array([0, pixels.size], dtype=np.int64))
        columns = [
            pa.array([row.input_ids_T], pa.list_(pa.int32())),
            pa.array([row.is_label_T], pa.list_(pa.bool_())),
            pa.array([row.document_lengths], pa.list_(pa.int32())),
            pa.array([row.sample_ids], pa.list_(pa.string())),
            pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, pixels]),
            pa.array([row.source_S2.ravel()], pa.list_(pa.int32())),
        ]
        return pa.record_batch(columns, schema=self._schema)
