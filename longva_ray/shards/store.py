"""Embedding shards on a file system: written atomically, resumed part by part, read by memory map.

    store = ShardStore("s3://bucket/shards")          # or a local folder, or any fsspec URL
    store.write_part(...); store.commit(...)          # the pipeline does this
    video = store.open(video_id, spec)                # everything else starts here
    video.tokens()                                    # F x Q x D

Promises: a file under its final name is complete (temporary name, then rename); names follow from
content, so two writers of one video write the same bytes to the same place; a reader refuses tokens
of another encoder and notices a file that was cut short. On a local disk the tokens of a part are a
view on mapped pages; on object stores a part is fetched whole on first use. Not here: deleting old
encodings, locking, or more than one file system in one store.

Shapes: F frames, Q visual tokens of one frame, D width of the language model.
"""

import dataclasses
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longva_ray.files.digest import digest_of
from longva_ray.files.folder import Folder
from longva_ray.files.parts import part_name, write_batches, wrong_size
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.schema import (
    EncodingSpec,
    ShardError,
    VideoRecord,
    part_schema,
    stored_to_column,
)

logger = logging.getLogger(__name__)

RECORD_NAME = "video.json"


class ShardStore:
    """All encoded videos below one root: a local path, an `s3://` or `gs://` URI, or any URL that
    fsspec knows."""

    def __init__(self, root: str | Path) -> None:
        self.folder = Folder(root)

    @property
    def root(self) -> str:
        """Path of the store on its file system."""
        return self.folder.root

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
        folder = _folder(video_id, spec)
        sizes = self._sizes(folder)

        def is_there(part: int) -> bool:
            name = part_name(part)
            if name not in sizes or (record and sizes[name] != record.part_bytes[part]):
                return False
            return not self.folder.is_local or self._is_sound(
                f"{folder}/{name}", spec, part, num_frames
            )

        return [part for part in parts if not is_there(part)]

    def write_part(
        self,
        video_id: str,
        spec: EncodingSpec,
        part: int,
        frame_index_F: np.ndarray,
        timestamp_s_F: np.ndarray,
        tokens_FQD: npt.NDArray[Any],
    ) -> int:
        """Write one part under its final name, or not at all; returns its size in bytes.

        Args:
            tokens_FQD: in the numbers that are stored (`schema.tensor_to_stored`).
        """
        tokens = stored_to_column(tokens_FQD, spec)
        payload = tokens.storage.flatten().buffers()[1]
        schema = part_schema(spec, video_id=video_id, part=part, tokens_blake2b=digest_of(payload))
        columns = [
            pa.array(frame_index_F, pa.int64()),
            pa.array(timestamp_s_F, pa.float64()),
            tokens,
        ]
        batch = pa.record_batch(columns, schema=schema)
        name = f"{_folder(video_id, spec)}/{part_name(part)}"
        return write_batches(self.folder, name, schema, [batch])

    def commit(
        self, video_id: str, spec: EncodingSpec, *, source: str, num_frames: int, duration_s: float
    ) -> VideoRecord:
        """Declare a video complete by writing its `video.json`.

        Raises ShardError when a part is not there: a record never promises more than the disk
        holds."""
        folder = _folder(video_id, spec)
        sizes = self._sizes(folder)
        names = [part_name(part) for part in range(spec.num_parts(num_frames))]
        absent = [name for name in names if name not in sizes]
        if absent:
            raise ShardError(
                f"cannot commit video {video_id}: {len(absent)} of {len(names)} parts are missing "
                f"in {self.folder.path(folder)}, the first is {absent[0]}; encode the video again "
                "to fill the gaps"
            )
        record = VideoRecord(
            video_id=video_id,
            spec=spec,
            source=source,
            num_frames=num_frames,
            duration_s=duration_s,
            part_bytes=tuple(sizes[name] for name in names),
        )
        self.folder.write(f"{folder}/{RECORD_NAME}", record.to_json().encode())
        return record

    def remove_abandoned(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Delete half-written files of runs that were killed; returns how many."""
        return self.folder.delete_half_written(older_than)

    # Reading --------------------------------------------------------------------------------------

    def record(self, video_id: str, spec: EncodingSpec) -> VideoRecord | None:
        """The record of a video encoded with exactly this spec, or None."""
        return self._read_record(f"{_folder(video_id, spec)}/{RECORD_NAME}")

    def records(self, video_id: str | None = None) -> list[VideoRecord]:
        """Records of every complete encoding, of one video or of all, in the order of their
        folders; one that cannot be read is left out, and logged."""
        found = [self._read_record(name) for name in self._record_names(video_id or "")]
        return [record for record in found if record is not None]

    def verify(self) -> Iterator[ShardError | None]:
        """Read every complete encoding and compare it with the digests stored with the tokens:
        for each what is wrong with it, or None."""
        for name in self._record_names():
            try:
                EncodedVideo(self._parse_record(name), self.read_part).verify()
            except ShardError as error:
                yield error
            else:
                yield None

    def open(self, video_id: str, spec: EncodingSpec) -> EncodedVideo:
        """The complete encoding of a video with exactly this spec.

        Raises KeyError if the video was never encoded, ShardError, with what differs, if only with
        other specs."""
        record = self.record(video_id, spec)
        if record is not None:
            return EncodedVideo(record, self.read_part)
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
            f"video {video_id} was encoded in another way: "
            f"{'; or '.join(sorted(differences))}; tokens of two encodings do not mix, so encode "
            "the video again with this model and settings"
        )

    def read_part(self, record: VideoRecord, part: int) -> pa.RecordBatch:
        """One part as an Arrow batch; mapped on a local disk, fetched elsewhere."""
        name = f"{_folder(record.video_id, record.spec)}/{part_name(part)}"
        wrong = wrong_size(self.folder, name, record.part_bytes[part], RECORD_NAME)
        if wrong:
            raise ShardError(f"{wrong}; encode the video again to restore it")
        return self._read_batch(name)

    def _sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder, by name."""
        return {info.base_name: info.size for info in self.folder.files(folder)}

    def _record_names(self, folder: str = "") -> list[str]:
        files = self.folder.files(folder, recursive=True)
        paths = sorted(info.path for info in files if info.base_name == RECORD_NAME)
        return [path.removeprefix(f"{self.root}/") for path in paths]

    def _read_record(self, name: str) -> VideoRecord | None:
        try:
            return self._parse_record(name)
        except FileNotFoundError:
            return None
        except ShardError as error:
            logger.warning("%s", error)
            return None

    def _parse_record(self, name: str) -> VideoRecord:
        content = self.folder.read(name)
        try:
            return VideoRecord.from_json(content.decode())
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(
                f"{self.folder.path(name)} is not a video record of this version ({error}); delete "
                "its folder and encode the video again"
            ) from error

    def _read_batch(self, name: str) -> pa.RecordBatch:
        """The one batch of a part: mapped on a local disk, else fetched whole.

        Raises ShardError when there is no whole batch of that name."""
        folder = self.folder
        try:
            if folder.is_local:
                return folder.open_batches(name).get_batch(0)
            return pa.ipc.open_file(folder.open(name).read_buffer()).get_batch(0)
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(
                f"{folder.path(name)} cannot be read ({error}); delete it and encode the video "
                "again"
            ) from error

    def _is_sound(self, name: str, spec: EncodingSpec, part: int, num_frames: int) -> bool:
        try:
            batch = self._read_batch(name)
        except ShardError as error:
            logger.warning("%s: this run does", error)
            return False
        return batch.num_rows == len(spec.part_rows(part, num_frames))


def _folder(video_id: str, spec: EncodingSpec) -> str:
    return f"{video_id}/{spec.key}"
