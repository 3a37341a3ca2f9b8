"""What a video file holds, found without decoding more than its first picture.

path -> VideoInfo: the facts callers need, and the packet table that decoding works from.

Every packet's timestamp is read once (a pass over the file, about 0.2 s for 10 minutes), so the
number of frames and their times are the true ones, not the header's claims: containers round, guess
or leave out both. The same pass finds files that end early. What it does not find is damage inside
a picture; decoding does.

Anything wrong with the file is a VideoError that names the file and the reason. Only containers on
a list are opened: FFmpeg's playlist formats would let a text file named .mp4 make it open other
files.

Shapes: K packets in the file's (decoding) order, F frames in display order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
from longva_ray.video.container import (
    VideoError,
    check_file,
    check_size,
    displayed_size,
    open_container,
    video_stream,
)
from longva_ray.video.packets import (
    PacketTable,
    _check_skeleton,
    measured_fps,
    read_packets,
    span_ticks,
)

DecoderName = Literal["pyav", "decord"]


DEFAULT_DECODER: DecoderName = "pyav"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """A readable video.

    `container` is FFmpeg's name of the format. `width` and `height` are as displayed: pixels made
    square (`pixel_aspect` is their width by their height in the file), `rotation` (degrees
    clockwise: 0, 90, 180, 270) applied. `decoder` is asked first. `packets` makes decoding possible
    without another pass.
    """

    path: Path
    container: str
    num_frames: int
    average_fps: float
    width: int
    height: int
    rotation: int
    duration_s: float
    decoder: DecoderName
    pixel_aspect: Fraction
    packets: PacketTable = field(repr=False, compare=False)


def probe_video(
    path: str | os.PathLike[str], *, decoder: DecoderName = DEFAULT_DECODER
) -> VideoInfo:
    """Check the file and describe it. `decoder`: who shall decode it, see `decode.py`.

    Raises VideoError: missing, a directory, empty, not a video, truncated, without pictures, too
    large.
    """
    path = Path(path)
    check_file(path)
    with open_container(path) as container:
        stream = video_stream(path, container)
        check_size(path, stream.codec_context.width, stream.codec_context.height)
        rotation = _first_rotation(path, container, stream)
        pixel_aspect = _pixel_aspect(stream)
        width, height = displayed_size(
            stream.codec_context.width, stream.codec_context.height, pixel_aspect, rotation
        )
        check_size(path, width, height)
    # A fresh container: the one above has moved past the first picture.
    with open_container(path) as container:
        stream = video_stream(path, container)
        if "matroska" in container.format.name:
            _check_skeleton(path)
        packets = read_packets(path, container, stream)
        average_fps = measured_fps(packets, stream.average_rate)
        container_name = container.format.name
    return VideoInfo(
        path=path,
        container=container_name,
        num_frames=len(packets.frame_pts_F),
        average_fps=average_fps,
        width=width,
        height=height,
        rotation=rotation,
        duration_s=float(span_ticks(packets) * packets.time_base) + 1 / average_fps,
        decoder=decoder,
        pixel_aspect=pixel_aspect,
        packets=packets,
    )


def _first_rotation(path: Path, container: InputContainer, stream: VideoStream) -> int:
    """Degrees clockwise, as the first picture says, which thereby proves that there is one."""
    import av

    reason = "there is none"
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    # FFmpeg counts counterclockwise. Anything but a quarter turn is rounded to one.
                    return round(-frame.rotation / 90) * 90 % 360
            except av.FFmpegError as error:
                # A recording may begin between two key frames; the first one is still to come.
                reason = error.strerror
    except av.FFmpegError as error:
        reason = error.strerror
    raise VideoError(path, f"has a video track without a frame that can be decoded: {reason}")


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel by its height; 1 unless the file says something believable."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 10) <= aspect <= 10 else Fraction(1)
