"""Frames -> a video file: the demo's videos, haystacks, benches and tests.

RGB frames, uint8 Y X C -> an H.264 (or other) file, as a camera might have written it, so whatever
reads it takes the same path as for real videos. One frame at a time is held in memory.

Not done here: sound. Shapes: Y rows, X columns, C colour channels.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain, count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longva_ray.video.container import local_file

Frame = npt.NDArray[np.uint8]

TIME_BASE = Fraction(1, 90_000)
"""Ticks of the written timestamps: what MPEG uses, exact for 24, 25, 30, 30000/1001... frames/s."""

FAST_H264 = {"preset": "superfast", "crf": "23"}
"""Options of libx264 that favour speed over size."""


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    fps: float | Fraction,
    codec: str = "libx264",
    options: Mapping[str, str] = FAST_H264,
    rotation: int = 0,
    timestamps_s: Iterable[float] | None = None,
) -> None:
    """Encode RGB frames (Y X C, all of one size, both sides even) as yuv420p.

    The file name's ending chooses the container. `rotation`: degrees clockwise by which a player
    turns the frames; they are stored unturned. `timestamps_s`: one increasing time per frame
    instead of a constant rate. The file appears under its name only when it is complete.

    Raises ValueError for no frames, an odd side, frames of different sizes, or more or fewer times
    than frames.
    """
    path = Path(path)
    rate = Fraction(fps).limit_denominator(100_000)
    # The ending stays last: it tells FFmpeg which container to write.
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        _encode(unfinished, iter(frames), rate, codec, dict(options), rotation, timestamps_s)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(
    path: Path,
    frames: Iterator[Frame],
    rate: Fraction,
    codec: str,
    options: dict[str, str],
    rotation: int,
    timestamps_s: Iterable[float] | None,
) -> None:
    import av

    first_YXC = next(frames, None)
    if first_YXC is None:
        raise ValueError("no frame to write; wanted at least 1")
    height, width, _ = first_YXC.shape
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width}x{height} pixels; yuv420p wants both sides even")
    times = count(0, 1 / rate) if timestamps_s is None else iter(timestamps_s)
    with av.open(local_file(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(-rotation)  # FFmpeg counts counterclockwise
        # As many times as frames, when they are given.
        for frame_YXC, time_s in zip(
            chain([first_YXC], frames), times, strict=timestamps_s is not None
        ):
            if frame_YXC.shape != first_YXC.shape:
                raise ValueError(f"a frame of {frame_YXC.shape} after one of {first_YXC.shape}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_YXC), format="rgb24")
            frame.pts, frame.time_base = round(time_s / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
