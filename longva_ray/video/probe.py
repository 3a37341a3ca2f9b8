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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from longva_ray.video.matroska import find_broken_element

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

DecoderName = Literal["pyav", "decord"]
DEFAULT_DECODER: DecoderName = "pyav"

MAX_SIDE = 16384
"""Longest side decoded, in pixels (H.264 and swscale stop here; 8K is 7680)."""
MAX_PIXELS = 2**26
"""Largest picture decoded: twice 8K. A decoder keeps up to 16 of them, 100 MB each."""
MAX_MISSING_S = 0.5
"""How much earlier than announced a file may end: containers round their times."""
MAX_RATE_ERROR = 0.1
"""How far the header's frame rate may be from the measured one before the measured one is used."""
CONTAINERS = "mov,mp4,matroska,webm,avi,flv,asf,mpegts,mpeg,ogg"
"""FFmpeg's names of the containers that are opened."""


COPY_COMMAND = "ffmpeg -i IN -c copy OUT.mp4"


class VideoError(ValueError):
    """A video that cannot be used: `path` is the file, `reason` what is wrong, with the remedy."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[Path, str]]:
        # The default would call VideoError(message) when the error crosses a process boundary.
        return type(self), (self.path, self.reason)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PacketTable:
    """The packets of the video stream and which of them show a frame.

    Times are ticks of `time_base` seconds. pts_K, is_key_K: packets in decoding order. frame_pts_F:
    the frames' times, increasing; frame_position_F: the packets that hold them. origin_pts: the
    time that counts as second 0, the earliest of all the file's streams, as in a player.
    """

    pts_K: npt.NDArray[np.int64]
    is_key_K: npt.NDArray[np.bool_]
    frame_pts_F: npt.NDArray[np.int64]
    frame_position_F: npt.NDArray[np.int64]
    time_base: Fraction
    origin_pts: int

    def seconds(self, pts_F: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Ticks -> seconds from the start of the file."""
        return (pts_F - self.origin_pts).astype(np.float64) * float(self.time_base)


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
    _check_file(path)
    with open_container(path) as container:
        stream = video_stream(path, container)
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        rotation = _first_rotation(path, container, stream)
        pixel_aspect = _pixel_aspect(stream)
        width, height = displayed_size(
            stream.codec_context.width, stream.codec_context.height, pixel_aspect, rotation
        )
        _check_size(path, width, height)
    # A fresh container: the one above has moved past the first picture.
    with open_container(path) as container:
        stream = video_stream(path, container)
        if "matroska" in container.format.name:
            _check_skeleton(path)
        packets = _read_packets(path, container, stream)
        average_fps = _average_fps(packets, stream.average_rate)
        container_name = container.format.name
    return VideoInfo(
        path=path,
        container=container_name,
        num_frames=len(packets.frame_pts_F),
        average_fps=average_fps,
        width=width,
        height=height,
        rotation=rotation,
        duration_s=float(_span_ticks(packets) * packets.time_base) + 1 / average_fps,
        decoder=decoder,
        pixel_aspect=pixel_aspect,
        packets=packets,
    )


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open with PyAV. Raises VideoError for a damaged file or one of no listed container."""
    import av

    try:
        container = av.open(
            str(path),
            options={"format_whitelist": CONTAINERS, "fflags": "+genpts"},
            # Nobody here reads a title, and many an old one is no UTF-8.
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, _why_unopened(path, error)) from error
    with container:
        yield container


def video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The stream that a player would show; an album cover inside a sound file is not one."""
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(path, f"has no video track, only {kinds}")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(
            path, "is coded in a way that this FFmpeg cannot decode; convert it to H.264"
        )
    return stream


def displayed_size(
    width: int, height: int, pixel_aspect: Fraction, rotation: int
) -> tuple[int, int]:
    """(width, height) as a player shows a decoded picture: pixels made square, turned upright."""
    width = max(1, round(width * pixel_aspect))
    return (height, width) if rotation in (90, 270) else (width, height)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(path, "no such file")
    if not path.is_file():
        raise VideoError(
            path, "is a directory; wanted a video file" if path.is_dir() else "is no file"
        )
    if path.stat().st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise VideoError(
            path, f"has pictures of {width}x{height} pixels; the video track is damaged"
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise VideoError(
            path,
            f"has pictures of {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} "
            "in all are decoded: scale it down first",
        )


def _why_unopened(path: Path, error: Exception) -> str:
    """Turn FFmpeg's 'Invalid data found' into what a person can act on: look at the first bytes."""
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return (
            "is an MP4/MOV file whose index (moov) is missing or damaged: the file is truncated, "
            "or still being written"
        )
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "is a Matroska/WebM file with a damaged header: the file is truncated or corrupted"
    return f"is not a video in any of the containers {CONTAINERS} (it begins with {head!r})"


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


def _read_packets(path: Path, container: InputContainer, stream: VideoStream) -> PacketTable:
    """One pass over the file. Raises VideoError when it ends early or its frames carry no times."""
    import av

    assert stream.time_base is not None
    video: list[tuple[int, bool, bool]] = []
    end_s = 0.0
    try:
        # All streams are read: it takes the longest of them to tell whether the file ends early.
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                raise VideoError(path, f"is truncated or damaged after {end_s:.1f} s")
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                if packet.pts is None:
                    raise VideoError(
                        path, "its frames carry no times; convert it: ffmpeg -i IN OUT.mp4"
                    )
                video.append((packet.pts, packet.is_keyframe, packet.is_discard))
    except av.FFmpegError as error:
        raise VideoError(path, f"is damaged after {end_s:.1f} s ({error.strerror})") from error
    _check_complete(path, container, end_s)
    pts_K = np.array([pts for pts, _, _ in video], dtype=np.int64)
    is_key_K = np.array([is_key for _, is_key, _ in video], dtype=bool)
    is_hidden_K = np.array([is_hidden for _, _, is_hidden in video], dtype=bool)
    return _packet_table(path, pts_K, is_key_K, is_hidden_K, stream.time_base, container.start_time)


def _check_complete(path: Path, container: InputContainer, end_s: float) -> None:
    """Compare the length that the file announces, if any, with what is there."""
    if container.duration is None or "matroska" in container.format.name:
        return  # Matroska's length is often wrong; its elements have been checked instead
    # Counting frames instead would not do: a trimmed MP4 announces those it does not show, too.
    announced_s = (container.duration + (container.start_time or 0)) / 1e6
    if end_s < announced_s - MAX_MISSING_S:
        raise VideoError(
            path,
            f"is truncated: it ends at {end_s:.1f} s of the {announced_s:.1f} s announced. "
            f"To use what is there, copy it first: {COPY_COMMAND}",
        )


def _check_skeleton(path: Path) -> None:
    """Matroska only: find what FFmpeg's reader skips in silence."""
    position = find_broken_element(path)
    if position is not None:
        size = path.stat().st_size
        state = "truncated" if position == size else f"damaged at byte {position} of {size}"
        raise VideoError(path, f"is {state}. To use what is there, copy it first: {COPY_COMMAND}")


def _packet_table(
    path: Path,
    pts_K: npt.NDArray[np.int64],
    is_key_K: npt.NDArray[np.bool_],
    is_hidden_K: npt.NDArray[np.bool_],
    time_base: Fraction,
    start_us: int | None,
) -> PacketTable:
    """Frames are the packets that are shown and can be decoded, in the order of their times.

    Not shown: packets outside of the file's edit list. Not decodable: what precedes the first key
    frame in the file or in time, as in a clip cut out of a broadcast. Two packets with one time are
    one frame.
    """
    if not is_key_K.any():
        raise VideoError(path, "has no key frame, so no picture can be decoded")
    first_key = int(is_key_K.argmax())
    is_frame_K = ~is_hidden_K & (np.arange(len(pts_K)) >= first_key) & (pts_K >= pts_K[first_key])
    frame_pts_F, first_of_time_F = np.unique(pts_K[is_frame_K], return_index=True)
    if len(frame_pts_F) == 0:
        raise VideoError(path, "has a video track without a single frame that is shown")
    origin_pts = int(frame_pts_F[0])
    if start_us is not None:
        origin_pts = round(Fraction(start_us, 1_000_000) / time_base)
    return PacketTable(
        pts_K=pts_K,
        is_key_K=is_key_K,
        frame_pts_F=frame_pts_F,
        frame_position_F=np.flatnonzero(is_frame_K)[first_of_time_F],
        time_base=time_base,
        origin_pts=origin_pts,
    )


def _span_ticks(packets: PacketTable) -> int:
    return int(packets.frame_pts_F[-1] - packets.frame_pts_F[0])


def _average_fps(packets: PacketTable, header_rate: Fraction | None) -> float:
    """The header's frame rate, as the released code uses it, unless the frames' times contradict
    it.

    Browsers' recordings, for one, announce 1000 frames per second: sampled at 1 frame per second
    they would lose nearly all.
    """
    span_s = float(_span_ticks(packets) * packets.time_base)
    header = float(header_rate) if header_rate else 0.0
    if span_s <= 0:
        return header or 1.0
    measured = (len(packets.frame_pts_F) - 1) / span_s
    return header if abs(header - measured) <= MAX_RATE_ERROR * measured else measured
