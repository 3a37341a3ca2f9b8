"""The visual tokens of one video, read from its parts.

    video = store.open(video_id, spec)
    video.tokens()                      # F x Q x D, a copy
    video.parts(100, 200)               # the same rows as views, part by part

A part is opened when one of its rows is asked for, and kept open. What it does not do: find videos
(`shards.store`).

Shapes: F frames, Q visual tokens of one frame, D width of the language model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from longva_ray.files.digest import digest_of
from longva_ray.files.parts import part_name
from longva_ray.shards.schema import METADATA_KEY, ShardError, VideoRecord, column_to_tensor

if TYPE_CHECKING:
    import torch


class EncodedVideo:
    """The visual tokens of one video, opened part by part as they are asked for."""

    def __init__(
        self, record: VideoRecord, read_part: Callable[[VideoRecord, int], pa.RecordBatch]
    ) -> None:
        """
        Args:
            read_part: how a part is had, such as `ShardStore.read_part`.
        """
        self.record = record
        self._read_part = read_part
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

    def evenly(self, num_frames: int | None) -> np.ndarray:
        """Rows of at most so many frames, spread evenly over all; None, every row."""
        wanted = min(num_frames or self.num_frames, self.num_frames)
        return np.linspace(0, self.num_frames - 1, wanted, dtype=int)

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
            tokens_FQD = column_to_tensor(self._batch(part).column("tokens"), spec)
            yield tokens_FQD[first - rows.start : last - rows.start]

    def tokens(self, rows: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Tokens FQD of all rows, or of the given ones, copied into one tensor."""
        import torch  # here, so that workers which only write start without it

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
            tokens_FQD = column_to_tensor(self._batch(int(part)).column("tokens"), spec)
            out_FQD[here] = tokens_FQD[chosen[here] - part * spec.part_frames]
        return out_FQD

    def verify(self) -> None:
        """Read everything and compare it with the digests stored with the tokens; ShardError
        names a bad part."""
        for part in range(self.record.spec.num_parts(self.num_frames)):
            batch = self._batch(part)
            stored = json.loads(batch.schema.metadata[METADATA_KEY])
            payload = batch.column("tokens").storage.flatten().buffers()[1]
            if digest_of(payload) != stored["tokens_blake2b"]:
                raise ShardError(
                    f"{part_name(part)} of video {self.record.video_id} does not match its digest: "
                    "the disk changed it; delete it and encode the video again"
                )

    def _batch(self, part: int) -> pa.RecordBatch:
        if part not in self._batches:
            self._batches[part] = self._read_part(self.record, part)
        return self._batches[part]

    def _column(self, name: str) -> np.ndarray:
        parts = range(self.record.spec.num_parts(self.num_frames))
        return np.concatenate([self._batch(part).column(name).to_numpy() for part in parts])
