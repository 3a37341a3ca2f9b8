"""Decode chosen frames of a video, fitted to a square, in chunks.

(VideoInfo, frame indices) -> FrameChunks of uint8 frames F Y X C, Y = X = size, C = RGB.

One forward pass: packets that no chosen frame depends on are never decoded, scaling happens inside
the decoder unless Pillow is asked for, and at most one chunk of finished frames is held, so memory
does not grow with the length of the video.

Two decoders with one contract. PyAV is the default; decord has to be asked for
(`probe_video(path, decoder="decord")`):

                                                     PyAV 18.1       decord 0.6.0
    10 min of 720p H.264 at 1 frame/s, 336 px        16 s            28 s        of processor time
    120 files damaged at random: wrong pictures      6               51
    intra refresh (no true key frames)               exact           broken pictures
    seeks in MPEG-TS                                 exact           other pictures
    more frames announced than can be decoded        VideoError      reported never to return [1]

[1] https://github.com/dmlc/decord/issues/373. The rest was measured here. The six are damaged bytes
that decode without an error: H.264 has no checksum.

PyAV skips the H.264 pictures that nothing refers to, about half of them, and says which picture it
delivers. decord decodes all of them and counts. What decord cannot be trusted with goes to PyAV,
and so does the rest of a video after decord has failed (`decord_frames.py`). A caller cannot tell
decord's wrong pictures from right ones, and that is why it is not the default.

Not done here: choosing frames (`sampling.py`), turning pixels into floats, deinterlacing, HDR tone
mapping.

Shapes: F frames, Y rows, X columns, C colour channels.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longva_ray.video.canvas import Canvas, Resize
from longva_ray.video.container import VideoError
from longva_ray.video.decord_frames import decord_frames
from longva_ray.video.fitting import Fitting
from longva_ray.video.probe import VideoInfo, probe_video
from longva_ray.video.pyav_frames import pyav_frames


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FrameChunk:
    """Chosen frames in order: positions in the video, times in seconds, pixels."""

    frame_index_F: npt.NDArray[np.int64]
    timestamp_s_F: npt.NDArray[np.float64]
    frames_FYXC: npt.NDArray[np.uint8]


def decode_frames(
    video: VideoInfo | str | os.PathLike[str],
    frame_index_F: npt.NDArray[np.int64],
    *,
    size: int,
    fitting: Fitting,
    chunk_frames: int,
    resize: Resize = "decoder",
    num_threads: int = 1,
) -> Iterator[FrameChunk]:
    """Decode the frames at `frame_index_F` (strictly increasing), fitted onto size x size pixels.

    Yields chunks of `chunk_frames` frames in order; the last one may be shorter. Timestamps are the
    container's, in seconds from the start of the file. `resize` says what scales (`canvas.py`). One
    thread is the default, because each worker decodes its own video; more threads only help a
    single video. A `VideoInfo` saves the pass over the file that a path costs.

    Raises ValueError for indices that are not increasing or not in the video. Raises VideoError for
    a file that cannot be opened, or that breaks while it is decoded: the error names the frame, and
    chunks already yielded are right.
    """
    info = video if isinstance(video, VideoInfo) else probe_video(video)
    index_F = np.asarray(frame_index_F, dtype=np.int64)
    _check_request(info, index_F, size, chunk_frames)
    # The checks above run at the call, the decoding when the first chunk is asked for.
    canvas = Canvas(info, size=size, fitting=fitting, resize=resize)
    return _chunks(info, index_F, canvas, chunk_frames, num_threads)


def _check_request(
    info: VideoInfo, index_F: npt.NDArray[np.int64], size: int, chunk_frames: int
) -> None:
    if index_F.ndim != 1 or (np.diff(index_F) <= 0).any():
        got = np.array2string(index_F, threshold=20)
        raise ValueError(f"frame indices must be one strictly increasing list, got {got}")
    if len(index_F) and not 0 <= index_F[0] <= index_F[-1] < info.num_frames:
        raise ValueError(
            f"{info.path}: asked for frames {index_F[0]}..{index_F[-1]} of a video that has frames "
            f"0..{info.num_frames - 1}"
        )
    if size < 1 or chunk_frames < 1:
        raise ValueError(f"size={size}, chunk_frames={chunk_frames}; wanted at least 1 of each")


def _chunks(
    info: VideoInfo,
    index_F: npt.NDArray[np.int64],
    canvas: Canvas,
    chunk_frames: int,
    num_threads: int,
) -> Iterator[FrameChunk]:
    decode = decord_frames if info.decoder == "decord" else pyav_frames
    with closing(decode(canvas, index_F, num_threads=num_threads)) as frames:
        for start in range(0, len(index_F), chunk_frames):
            chunk_index_F = index_F[start : start + chunk_frames]
            frames_FYXC = np.empty(
                (len(chunk_index_F), canvas.size, canvas.size, 3), dtype=np.uint8
            )
            for row in range(len(chunk_index_F)):
                frame_YXC = next(frames, None)
                if frame_YXC is None:
                    raise VideoError(
                        info.path,
                        f"its decoder gave {start + row} of {len(index_F)} frames; encode it "
                        "again: ffmpeg -i IN OUT.mp4",
                    )
                frames_FYXC[row] = frame_YXC
            yield FrameChunk(
                frame_index_F=chunk_index_F,
                timestamp_s_F=info.packets.seconds(info.packets.frame_pts_F[chunk_index_F]),
                frames_FYXC=frames_FYXC,
            )
