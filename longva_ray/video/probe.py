"""What a video file holds, found without decoding more than its first picture.

path -> VideoInfo: the facts that callers need, and the packet table that decoding works from.

The number of frames and their times are those of the packets, not the header's claims. Anything
wrong with the file is a VideoError that names the file and the reason. Not found here: damage
inside a picture, which decoding finds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from longva_ray.video.container import (
    VideoError,
    check_size,
    displayed_size,
    open_container,
    video_stream,
)
from longva_ray.video.orientation import Orientation, orientation_of
from longva_ray.video.packets import PacketTable, average_fps, read_packets
from longva_ray.video.sampling import Sampling

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

DecoderName = Literal["pyav", "decord"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """A readable video."""

    path: Path
    container: str
    """FFmpeg's name of the format."""
    num_frames: int
    average_fps: float
    width: int
    """As displayed, like `height`: with square pixels, upright."""
    height: int
    orientation: Orientation
    """How a stored picture is turned and mirrored to be upright."""
    duration_s: float
    decoder: DecoderName
    """Which one is asked first."""
    pixel_aspect: Fraction
    """Width of a pixel by its height, as stored."""
    packets: PacketTable = field(repr=False, compare=False)
    """Makes decoding possible without another pass over the file."""

    def sampled(self, sampling: Sampling) -> npt.NDArray[np.int64]:
        """The frames that a rule takes, strictly increasing, shape (F,)."""
        packets = self.packets
        return sampling.indices(packets.frame_pts_F, packets.time_base, self.average_fps)


def probe_video(path: str | os.PathLike[str], *, decoder: DecoderName = "pyav") -> VideoInfo:
    """Check the file and describe it. `decoder` will decode it, see `decode.py`.

    Raises VideoError for a file that is missing, a directory, empty, not a video, truncated,
    without pictures, or with pictures that are too large.
    """
    path = Path(path)
    with open_container(path) as container:
        stream = video_stream(path, container)
        check_size(path, stream.codec_context.width, stream.codec_context.height)
        orientation = _first_orientation(path, container, stream)
        pixel_aspect = _pixel_aspect(stream)
        width, height = displayed_size(
            stream.codec_context.width, stream.codec_context.height, pixel_aspect, orientation
        )
        check_size(path, width, height)
    # A fresh container: the one above has moved past the first picture.
    with open_container(path) as container:
        stream = video_stream(path, container)
        packets = read_packets(path, container, stream)
        fps = average_fps(packets, stream.average_rate)
        container_name = container.format.name
    return VideoInfo(
        path=path,
        container=container_name,
        num_frames=len(packets.frame_pts_F),
        average_fps=fps,
        width=width,
        height=height,
        orientation=orientation,
        duration_s=packets.span_s + 1 / fps,
        decoder=decoder,
        pixel_aspect=pixel_aspect,
        packets=packets,
    )


def _first_orientation(path: Path, container: InputContainer, stream: VideoStream) -> Orientation:
    """As the first picture says; reading it proves that there is one."""
    import av

    reason = "there is none"
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    return orientation_of(frame)
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
