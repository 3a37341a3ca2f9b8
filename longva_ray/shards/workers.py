"""The four stages of encoding as plain classes: identify -> decode -> encode -> write. No Ray in
here.

Each takes and returns batches of one row, a dictionary of columns, as Ray Data's `map_batches`
hands them out. A row that carries an `error` passes through the later stages untouched, so a bad
video ends up in the report and does not stop the others. Only a user's mistake (an unreadable
video) becomes such a row; a bug is raised and stops the run. Torch is imported by what encodes
alone: the other workers start sooner without it.

Shapes: F frames of one part, Y/X/C pixel axes, Q visual tokens of a frame, D width of the language
model."""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longva_ray.files.places import file_name, is_uri, local_file
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.schema import (
    EncodingSpec,
    VideoRecord,
    column_dtype,
    hash_video,
    tensor_to_stored,
)
from longva_ray.shards.store import ShardStore
from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import DecoderName, VideoInfo, probe_video
from longva_ray.video.sampling import Sampling

Batch = dict[str, Any]
"""One row: every value is a sequence of length 1."""

MAX_SEGMENT_PARTS = 8
"""Parts that one decoding task walks through: long enough to pay for opening the file, short enough
to balance."""

CHANGED = "changed while it was encoded; encode it again"


def describe_encoder(checkpoint: str, config: EncodeConfig) -> EncodingSpec:
    """The provenance that tokens of this checkpoint under this config carry. Reads the encoder's
    weights once."""
    import torch

    from longva_ray.lm.layout import load_longva_config
    from longva_ray.lm.load import load_frame_encoder

    encoder = load_frame_encoder(checkpoint, dtype=getattr(torch, config.dtype))
    return EncodingSpec(
        encoder_fingerprint=encoder.fingerprint(),
        sampling=str(Sampling.parse(config.sampling)),
        fitting=config.fitting or load_longva_config(checkpoint).fitting_of_videos,
        decoder=config.decoder,
        frame_size=encoder.grid_size,
        dtype=config.dtype,
        tokens_per_frame=encoder.tokens_per_grid,
        width=encoder.width,
        micro_batch=config.micro_batch,
        part_frames=config.part_frames,
        resize=config.resize,
    )


class IdentifyVideo:
    """path -> one row for each segment of parts that are still missing (one with no parts when all
    are there)."""

    def __init__(self, store: ShardStore, spec: EncodingSpec, decode_slots: int) -> None:
        self._store = store
        self._spec = spec
        self._decode_slots = decode_slots

    def __call__(self, batch: Batch) -> Batch:
        path = str(batch["path"][0])
        try:
            with local_file(path) as file:
                version = _version(file)
                info = probe_video(file, decoder=self._spec.decoder)
                video_id = hash_video(file)
        except VideoError as error:
            return _rows([_plan_row(path, error=error.reason)])
        except OSError as error:
            return _rows([_plan_row(path, error=f"cannot be read: {error}")])
        num_frames = len(info.sampled(Sampling.parse(self._spec.sampling)))
        missing = self._store.missing_parts(video_id, self._spec, num_frames)
        per_segment = self._parts_per_segment(path, len(missing))
        segments = [missing[i : i + per_segment] for i in range(0, len(missing), per_segment)]
        return _rows(
            [
                _plan_row(
                    path, version, video_id, num_frames, info.duration_s, len(missing), segment
                )
                for segment in segments or [[]]
            ]
        )

    def _parts_per_segment(self, path: str, missing: int) -> int:
        if is_uri(path):
            return max(1, missing)  # every segment would fetch the whole file again
        # A short list is split among the decoders, so that one video alone still keeps all of them
        # busy.
        return max(1, min(MAX_SEGMENT_PARTS, -(-missing // self._decode_slots)))


class DecodeSegment:
    """Segment of parts -> one row for each part, with its frames fitted to the encoder's size."""

    def __init__(self, spec: EncodingSpec) -> None:
        self._spec = spec

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        plan = {name: values[0] for name, values in batch.items()}
        parts = [int(part) for part in plan.pop("parts")]
        empty = np.zeros((0, self._spec.frame_size, self._spec.frame_size, 3), np.uint8)
        nothing = _part_row(plan, -1, np.zeros(0, np.int64), np.zeros(0), empty)
        if plan["error"] or not parts:
            yield nothing
            return
        try:
            with local_file(plan["path"]) as file:
                yield from self._decode(file, plan, parts)
        except VideoError as error:
            yield nothing | {"error": [error.reason]}
        except OSError as error:
            yield nothing | {"error": [f"cannot be read: {error}"]}

    def _decode(self, file: Path, plan: Batch, parts: list[int]) -> Iterator[Batch]:
        version = _version(file)
        # The time of a copy says nothing, so it is the content that decides.
        if version != plan["version"] and hash_video(file) != plan["video_id"]:
            raise VideoError(file, CHANGED)
        info = _probe_once(file, version, self._spec.decoder)
        frame_index_F = info.sampled(Sampling.parse(self._spec.sampling))
        if len(frame_index_F) != plan["num_frames"]:
            raise VideoError(
                file,
                f"has {len(frame_index_F)} sampled frames where it is decoded and "
                f"{plan['num_frames']} where it was identified; install the same PyAV on all nodes",
            )
        for run in _consecutive(parts):
            first = self._spec.part_rows(run[0], len(frame_index_F)).start
            last = self._spec.part_rows(run[-1], len(frame_index_F)).stop
            chunks = decode_frames(
                info,
                frame_index_F[first:last],
                size=self._spec.frame_size,
                fitting=self._spec.fitting,
                chunk_frames=self._spec.part_frames,
                resize=self._spec.resize,
            )
            started = time.perf_counter()
            for part, chunk in zip(run, chunks, strict=True):
                if _version(file) != version:
                    raise VideoError(file, CHANGED)
                row = _part_row(
                    plan, part, chunk.frame_index_F, chunk.timestamp_s_F, chunk.frames_FYXC
                )
                yield row | {"decode_s": [time.perf_counter() - started]}
                started = time.perf_counter()


class EncodeFrames:
    """Frames of a part -> visual tokens; holds the tower and the projector for the life of the
    actor.

    Raises FloatingPointError for weights that make no finite tokens."""

    def __init__(self, checkpoint: str, config: EncodeConfig) -> None:
        import torch

        from longva_ray.lm.load import load_frame_encoder

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = load_frame_encoder(checkpoint, dtype=getattr(torch, config.dtype)).to(device)
        self._micro_batch = config.micro_batch

    def __call__(self, batch: Batch) -> Batch:
        frames_FYXC = batch.pop("frames")[0]
        started = time.perf_counter()
        tokens_FQD = self.encoder.encode(frames_FYXC, micro_batch=self._micro_batch)
        stored_FQD = tensor_to_stored(tokens_FQD)
        batch["encode_s"] = [time.perf_counter() - started]
        # As bytes, since Arrow's tensors do not take every kind of number.
        batch["tokens"] = stored_FQD.view(np.uint8)[None]
        return batch


class EncodeOrReport(EncodeFrames):
    """The same for a graph: weights that make no finite tokens are a row with an error."""

    def __call__(self, batch: Batch) -> Batch:
        try:
            return super().__call__(dict(batch))
        except FloatingPointError as error:
            columns = ("frames", "frame_index", "timestamp_s")
            nothing: Batch = {name: [batch[name][0][:0]] for name in columns}
            return super().__call__(batch | nothing | {"part": [-1], "error": [str(error)]})


class WritePart:
    """Tokens of a part -> a file in the store and a row that says so."""

    def __init__(self, store: ShardStore, spec: EncodingSpec) -> None:
        self._store = store
        self._spec = spec

    def __call__(self, batch: Batch) -> Batch:
        tokens_FQD = batch.pop("tokens")[0].view(column_dtype(self._spec))
        frame_index_F, timestamp_s_F = batch.pop("frame_index")[0], batch.pop("timestamp_s")[0]
        part = int(batch["part"][0])
        started = time.perf_counter()
        if part >= 0:
            self._store.write_part(
                batch["video_id"][0], self._spec, part, frame_index_F, timestamp_s_F, tokens_FQD
            )
        return batch | {
            "frames_written": [len(frame_index_F)],
            "write_s": [time.perf_counter() - started],
        }


def encode_one_video(
    path: str, store: ShardStore, spec: EncodingSpec, encode: EncodeFrames
) -> VideoRecord:
    """All four stages for one video in this process, part after part; does nothing for what the
    store already has.

    Raises VideoError when the video cannot be decoded, FloatingPointError for weights that make no
    finite tokens.
    """
    decode, write = DecodeSegment(spec), WritePart(store, spec)
    rows = _split_rows(IdentifyVideo(store, spec, decode_slots=1)({"path": [path]}))
    for row in rows:
        for part in decode(row):
            if part["error"][0]:
                raise VideoError(path, part["error"][0])
            write(encode(part))
    return commit_video(store, spec, {name: values[0] for name, values in rows[0].items()})


def commit_video(store: ShardStore, spec: EncodingSpec, row: Batch) -> VideoRecord:
    """The record of a video whose parts are all written; `row` holds values of any of its rows. A
    record from before is renewed when parts were missing: it lists their sizes.

    Raises ShardError when this machine does not see all parts.
    """
    record = store.record(row["video_id"], spec)
    if record is not None and not row["parts_missing"]:
        return record
    return store.commit(
        row["video_id"],
        spec,
        source=file_name(row["path"]),
        num_frames=int(row["num_frames"]),
        duration_s=float(row["duration_s"]),
    )


@functools.lru_cache(maxsize=1)
def _probe_once(file: Path, version: str, decoder: DecoderName) -> VideoInfo:
    """A probe reads the whole file, and a worker process often meets one video's segments one after
    the other: for hours of video, dozens."""
    return probe_video(file, decoder=decoder)


def _version(file: Path) -> str:
    """Size and time of a file: while they stay, so does its content."""
    status = file.stat()
    return f"{status.st_size} bytes of {status.st_mtime_ns} ns"


def _plan_row(
    path: str,
    version: str = "",
    video_id: str = "",
    num_frames: int = 0,
    duration_s: float = 0.0,
    parts_missing: int = 0,
    parts: Sequence[int] = (),
    error: str = "",
) -> Batch:
    return {
        "path": path,
        "version": version,
        "video_id": video_id,
        "num_frames": num_frames,
        "duration_s": duration_s,
        "parts_missing": parts_missing,
        "parts": np.array(parts, np.int64),
        "error": error,
    }


def _part_row(
    plan: Batch,
    part: int,
    frame_index_F: np.ndarray,
    timestamp_s_F: np.ndarray,
    frames_FYXC: np.ndarray,
) -> Batch:
    return {name: [value] for name, value in plan.items()} | {
        "part": [part],
        "frame_index": frame_index_F[None],
        "timestamp_s": timestamp_s_F[None],
        "frames": frames_FYXC[None],
        "decode_s": [0.0],
    }


def _rows(rows: list[Batch]) -> Batch:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _split_rows(batch: Batch) -> list[Batch]:
    return [
        {name: [values[row]] for name, values in batch.items()} for row in range(len(batch["path"]))
    ]


def _consecutive(parts: list[int]) -> list[list[int]]:
    """Split sorted parts into runs without gaps: a decoder reads each run in one pass."""
    runs: list[list[int]] = []
    for part in parts:
        if runs and part == runs[-1][-1] + 1:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs
