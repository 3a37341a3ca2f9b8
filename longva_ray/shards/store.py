"""Embedding shards on a file system: written atomically, resumed part by part, read by memory map.

    store = ShardStore("s3://bucket/shards")          # or a local folder, or any fsspec URL
    store.write_part(...); store.commit(...)          # the pipeline does this
    video = store.open(video_id, spec)                # everything else starts here
    video.tokens()                                    # F x Q x D

Promises: a file under its final name is complete (temporary name, then rename); names follow from
content, so two writers of one video write the same bytes to the same place; a reader refuses tokens
of another encoder and notices a file that was cut short. On a local disk the tokens of a part are a
view on mapped pages; on object stores a part is fetched whole on first use. Not here: deleting old
encodings, locking, or more than one file system at a time.

Shapes: F frames, Q visual tokens of one frame, D width of the language model.
"""

import dataclasses
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import torch

from longva_ray.files.places import open_place
from longva_ray.shards.schema import (
    METADATA_KEY,
    EncodingSpec,
    ShardError,
    VideoRecord,
    array_to_tokens,
    part_schema,
    tokens_to_array,
)

logger = logging.getLogger(__name__)


RECORD_NAME = "video.json"


INCOMING = ".incoming"
"""Folder of half-written files, on the same file system as the shards so that a rename is
atomic."""


class ShardStore:
    """All encoded videos below one root: a local path, an `s3://` or `gs://` URI, or any URL that
    fsspec knows."""

    def __init__(self, root: str | Path) -> None:
        self.filesystem, self.root = open_place(str(root))
        self._is_local = isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    # Writing --------------------------------------------------------------------------------------

    def missing_parts(self, video_id: str, spec: EncodingSpec, num_frames: int) -> list[int]:
        """Parts that are absent, unreadable, or not those of the record, if there is one: what a
        new or resumed run still has to encode.

        On an object store the listing decides and no part is fetched: what has its name there is
        whole."""
        parts = range(spec.num_parts(num_frames))
        record = self.record(video_id, spec)
        if record is not None and record.num_frames != num_frames:
            return list(parts)
        folder = self._folder(video_id, spec.key)
        sizes = {info.base_name: info.size for info in self._list(folder)}

        def is_there(part: int) -> bool:
            name = part_name(part)
            if name not in sizes or (record and sizes[name] != record.part_bytes[part]):
                return False
            return not self._is_local or self._is_sound(f"{folder}/{name}", spec, part, num_frames)

        return [part for part in parts if not is_there(part)]

    def write_part(
        self,
        video_id: str,
        spec: EncodingSpec,
        part: int,
        frame_index_F: np.ndarray,
        timestamp_s_F: np.ndarray,
        tokens_FQD: torch.Tensor,
    ) -> int:
        """Write one part under its final name, or not at all; returns its size in bytes."""
        tokens = tokens_to_array(tokens_FQD, spec)
        payload = tokens.storage.flatten().buffers()[1]
        digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
        schema = part_schema(spec, video_id=video_id, part=part, tokens_blake2b=digest)
        columns = [
            pa.array(frame_index_F, pa.int64()),
            pa.array(timestamp_s_F, pa.float64()),
            tokens,
        ]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        content = sink.getvalue()
        self._write_atomically(f"{self._folder(video_id, spec.key)}/{part_name(part)}", content)
        return content.size

    def commit(
        self, video_id: str, spec: EncodingSpec, *, source: str, num_frames: int, duration_s: float
    ) -> VideoRecord:
        """Declare a video complete by writing its `video.json`.

        Raises ShardError when a part is not there: a record never promises more than the disk
        holds."""
        folder = self._folder(video_id, spec.key)
        sizes = {info.base_name: info.size for info in self._list(folder)}
        names = [part_name(part) for part in range(spec.num_parts(num_frames))]
        absent = [name for name in names if name not in sizes]
        if absent:
            raise ShardError(
                f"cannot commit video {video_id}: {len(absent)} of {len(names)} parts are missing "
                f"in {folder}, the first is {absent[0]}; encode the video again to fill the gaps"
            )
        record = VideoRecord(
            video_id=video_id,
            spec=spec,
            source=source,
            num_frames=num_frames,
            duration_s=duration_s,
            part_bytes=tuple(sizes[name] for name in names),
        )
        self._write_atomically(f"{folder}/{RECORD_NAME}", record.to_json().encode())
        return record

    def remove_abandoned(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Delete half-written files of runs that were killed; returns how many."""
        limit = datetime.now(UTC) - older_than
        stale = [
            info
            for info in self._list(f"{self.root}/{INCOMING}")
            if info.mtime and info.mtime < limit
        ]
        for info in stale:
            self.filesystem.delete_file(info.path)
        return len(stale)

    # Reading --------------------------------------------------------------------------------------

    def record(self, video_id: str, spec: EncodingSpec) -> VideoRecord | None:
        """The record of a video encoded with exactly this spec, or None."""
        return self._read_record(f"{self._folder(video_id, spec.key)}/{RECORD_NAME}")

    def records(self, video_id: str | None = None) -> list[VideoRecord]:
        """Records of every complete encoding, of one video or of all, in the order of their
        folders; one that cannot be read is as good as none, and logged."""
        folder = f"{self.root}/{video_id}" if video_id else self.root
        found = [self._read_record(path) for path in self._record_paths(folder)]
        return [record for record in found if record is not None]

    def verify(self) -> Iterator[ShardError | None]:
        """Read every complete encoding and compare it with the digests written beside the tokens:
        for each what is wrong with it, or None."""
        for path in self._record_paths(self.root):
            try:
                EncodedVideo(self, self._parse_record(path)).verify()
            except ShardError as error:
                yield error
            else:
                yield None

    def open(self, video_id: str, spec: EncodingSpec) -> "EncodedVideo":
        """The complete encoding of a video with exactly this spec.

        Raises KeyError if the video was never encoded, ShardError, with what differs, if only with
        other specs."""
        record = self.record(video_id, spec)
        if record is not None:
            return EncodedVideo(self, record)
        others = self.records(video_id)
        if not others:
            raise KeyError(f"video {video_id} is not in the shard store {self.root}")
        wanted = dataclasses.asdict(spec)
        differences = {
            ", ".join(
                f"{name} {value} instead of {wanted[name]}"
                for name, value in dataclasses.asdict(other.spec).items()
                if value != wanted[name]
            )
            for other in others
        }
        raise ShardError(
            f"video {video_id} was encoded otherwise: {'; or '.join(sorted(differences))}; tokens "
            "of two encodings do not mix, so encode the video again with this model and settings"
        )

    def read_part(self, record: VideoRecord, part: int) -> pa.RecordBatch:
        """One part as an Arrow batch; mapped on a local disk, fetched elsewhere."""
        path = f"{self._folder(record.video_id, record.spec.key)}/{part_name(part)}"
        info = self.filesystem.get_file_info(path)
        if info.type != pyarrow.fs.FileType.File:
            raise ShardError(
                f"{path} is gone although its video.json lists it; encode the video again"
            )
        if info.size != record.part_bytes[part]:
            raise ShardError(
                f"{path} has {info.size} bytes instead of {record.part_bytes[part]}: it was cut "
                "short or replaced; delete it and encode the video again to restore it"
            )
        return self._read_batch(path)

    # File system ----------------------------------------------------------------------------------

    def _folder(self, video_id: str, key: str) -> str:
        return f"{self.root}/{video_id}/{key}"

    def _list(self, folder: str, recursive: bool = False) -> list[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        return [
            info
            for info in self.filesystem.get_file_info(selector)
            if info.type == pyarrow.fs.FileType.File
        ]

    def _write_atomically(self, path: str, content: bytes | pa.Buffer) -> None:
        temporary = f"{self.root}/{INCOMING}/{uuid.uuid4().hex}"
        self.filesystem.create_dir(f"{self.root}/{INCOMING}", recursive=True)
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(temporary) as file:
            file.write(content)
        self.filesystem.move(temporary, path)

    def _record_paths(self, folder: str) -> list[str]:
        files = self._list(folder, recursive=True)
        return sorted(info.path for info in files if info.base_name == RECORD_NAME)

    def _read_record(self, path: str) -> VideoRecord | None:
        try:
            return self._parse_record(path)
        except FileNotFoundError:
            return None
        except ShardError as error:
            logger.warning("%s", error)
            return None

    def _parse_record(self, path: str) -> VideoRecord:
        with self.filesystem.open_input_stream(path) as file:
            content = file.read()
        try:
            return VideoRecord.from_json(content.decode())
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(
                f"{path} is not a video record of this version ({error}); delete its folder and "
                "encode the video again"
            ) from error

    def _read_batch(self, path: str) -> pa.RecordBatch:
        """Raises ShardError when there is no whole batch at that path."""
        try:
            if self._is_local:
                source = pa.memory_map(path)
            else:
                source = self.filesystem.open_input_file(path).read_buffer()
            return pa.ipc.open_file(source).get_batch(0)
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(
                f"{path} cannot be read ({error}); delete it and encode the video again"
            ) from error

    def _is_sound(self, path: str, spec: EncodingSpec, part: int, num_frames: int) -> bool:
        try:
            batch = self._read_batch(path)
        except ShardError as error:
            logger.warning("%s: this run does", error)
            return False
        return batch.num_rows == len(spec.part_rows(part, num_frames))


class EncodedVideo:
    """The visual tokens of one video, opened part by part as they are asked for."""

    def __init__(self, store: ShardStore, record: VideoRecord) -> None:
        self.record = record
        self._store = store
        self._batches: dict[int, pa.RecordBatch] = {}

    @property
    def num_frames(self) -> int:
        return self.record.num_frames

    @property
    def frame_index_F(self) -> np.ndarray:
        """Position of each sampled frame in the video file."""
        return self._column("frame_index")

    @property
    def timestamp_s_F(self) -> np.ndarray:
        """Time of each sampled frame in seconds from the start."""
        return self._column("timestamp_s")

    def parts(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Tokens FQD of rows start..stop, one read-only view for each part they touch; nothing is
        copied."""
        spec = self.record.spec
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise ValueError(
                f"rows {start}..{stop} are outside this video, which has {self.num_frames} frames"
            )
        for part in range(start // spec.part_frames, spec.num_parts(stop)):
            rows = spec.part_rows(part, self.num_frames)
            first, last = max(start, rows.start), min(stop, rows.stop)
            tokens_FQD = array_to_tokens(self._batch(part).column("tokens"), spec)
            yield tokens_FQD[first - rows.start : last - rows.start]

    def tokens(self, rows: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Tokens FQD of all rows, or of the given ones, in one tensor of their own."""
        if rows is None:
            return torch.cat(list(self.parts()))
        chosen = np.asarray(rows, dtype=np.int64)
        outside = chosen[(chosen < 0) | (chosen >= self.num_frames)]
        if len(outside):
            raise ValueError(
                f"row {outside[0]} is outside this video, which has {self.num_frames} frames"
            )
        spec = self.record.spec
        out_FQD = torch.empty(
            (len(chosen), spec.tokens_per_frame, spec.width), dtype=getattr(torch, spec.dtype)
        )
        part_of_row = chosen // spec.part_frames
        for part in np.unique(part_of_row):
            here = np.flatnonzero(part_of_row == part)
            tokens_FQD = array_to_tokens(self._batch(int(part)).column("tokens"), spec)
            out_FQD[here] = tokens_FQD[chosen[here] - part * spec.part_frames]
        return out_FQD

    def verify(self) -> None:
        """Read everything and compare it with the digests written beside the tokens; ShardError
        names a bad part."""
        for part in range(self.record.spec.num_parts(self.num_frames)):
            batch = self._batch(part)
            stored = json.loads(batch.schema.metadata[METADATA_KEY])
            payload = batch.column("tokens").storage.flatten().buffers()[1]
            if hashlib.blake2b(payload, digest_size=16).hexdigest() != stored["tokens_blake2b"]:
                raise ShardError(
                    f"{part_name(part)} of video {self.record.video_id} does not match its digest: "
                    "the disk changed it; delete it and encode the video again"
                )

    def _batch(self, part: int) -> pa.RecordBatch:
        if part not in self._batches:
            self._batches[part] = self._store.read_part(self.record, part)
        return self._batches[part]

    def _column(self, name: str) -> np.ndarray:
        parts = range(self.record.spec.num_parts(self.num_frames))
        return np.concatenate([self._batch(part).column(name).to_numpy() for part in parts])


def part_name(part: int) -> str:
    return f"part-{part:05d}.arrow"
