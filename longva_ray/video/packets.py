"""The packets of a video: when each frame is shown, and whether the file ends early.

An open container and its video stream -> PacketTable, in one pass over the file (about 0.2 s for 10
minutes of video).

Every packet's timestamp is read, so the number of frames and their times are the true ones.
Headers round, guess or leave out both. The same pass finds files that end early. What it does not
find is damage inside a picture; decoding does.

Shapes: K packets in the file's (decoding) order, F frames in display order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longva_ray.video import clock
from longva_ray.video.clock import Stamp
from longva_ray.video.container import VideoError
from longva_ray.video.display_order import (
    DECODING_TIMES_ONLY,
    display_times,
    is_packed,
    may_be_guessed,
)
from longva_ray.video.joined import find_second_file
from longva_ray.video.matroska import find_broken_element

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_MISSING_S = 0.5
"""How much earlier than announced a file may end: containers round their times."""

COPY_COMMAND = "ffmpeg -i IN -c copy OUT.mp4"
"""Makes a complete file with one clock of what a truncated or joined one holds."""

JOIN_COMMAND = "ffmpeg -f concat -i LIST -c copy OUT.mp4"
"""Makes one file of those that LIST names, each as `file 'NAME'`."""

UNPACK_COMMAND = "ffmpeg -i IN -c copy -bsf:v mpeg4_unpack_bframes OUT.avi"
"""Gives each picture of packed MPEG-4 video a packet of its own."""

MAX_RATE_ERROR = 0.1
"""How far the header's frame rate may be from the measured one before the measured one is used."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PacketTable:
    """The packets of the video stream, and which of them show a frame.

    Times (pts) are ticks of `time_base` seconds.
    """

    pts_K: npt.NDArray[np.int64]
    stored_pts_K: npt.NDArray[np.int64]
    """What FFmpeg says instead, where it can only guess (`display_order.py`)."""
    is_key_K: npt.NDArray[np.bool_]
    frame_pts_F: npt.NDArray[np.int64]
    """The frames' times, increasing."""
    frame_position_F: npt.NDArray[np.int64]
    """Which packets hold them."""
    time_base: Fraction
    origin_pts: int
    """The time that counts as second 0: the earliest of all the file's streams, as in a player."""

    @property
    def span_s(self) -> float:
        """Seconds from the first frame to the last one."""
        return float(int(self.frame_pts_F[-1] - self.frame_pts_F[0]) * self.time_base)

    def seconds(self, pts_F: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Ticks -> seconds from the start of the file."""
        return (pts_F - self.origin_pts).astype(np.float64) * float(self.time_base)


def read_packets(path: Path, container: InputContainer, stream: VideoStream) -> PacketTable:
    """One pass over the file.

    Raises VideoError when it ends early, is damaged, or its frames carry no times.
    """
    import av

    if "matroska" in container.format.name:
        _check_skeleton(path)
    _check_alone(path, container)
    assert stream.time_base is not None
    stamps: list[Stamp] = []
    is_hidden: list[bool] = []
    start_s = (container.start_time or 0) / 1e6
    end_s = start_s
    corrupt_s: float | None = None
    try:
        # All streams are read: it takes the longest of them to tell whether the file ends early.
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.is_corrupt and corrupt_s is None:
                corrupt_s = end_s - start_s
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                if packet.pts is None:
                    raise VideoError(
                        path, "its frames carry no times; convert it: ffmpeg -i IN OUT.mp4"
                    )
                if stream.codec_context.name == "mpeg4" and is_packed(bytes(packet)):
                    raise VideoError(
                        path,
                        "has packets of two pictures (packed B-frames), which have one time for "
                        f"both. To unpack them, copy it first: {UNPACK_COMMAND}",
                    )
                stamps.append(Stamp(packet.dts, packet.pts, packet.is_keyframe))
                is_hidden.append(packet.is_discard)
    except av.FFmpegError as error:
        reason = f"is damaged after {end_s - start_s:.1f} s ({error.strerror})"
        raise VideoError(path, reason) from error
    if container.format.name in clock.CONTAINERS:
        # First, because a join also looks like damage to the container.
        _check_clock(path, container.format.name, stamps)
    if corrupt_s is not None:
        raise VideoError(
            path,
            f"is truncated or damaged after {corrupt_s:.1f} s. "
            f"To use what is there, copy it first: {COPY_COMMAND}",
        )
    pts_K = np.array([stamp.pts for stamp in stamps], dtype=np.int64)
    if container.format.name == "flv" and len(pts_K) > 1:
        # FLV does not say how long the last frame is shown, but its length counts it.
        end_s += float(np.ptp(pts_K) / (len(pts_K) - 1) * stream.time_base)
    _check_complete(path, container, end_s)
    is_key_K = np.array([stamp.is_key for stamp in stamps], dtype=bool)
    is_hidden_K = np.array(is_hidden, dtype=bool)
    shown_pts_K = _shown(path, container, stream, stamps, pts_K)
    table = _packet_table(
        path, shown_pts_K, is_key_K, is_hidden_K, stream.time_base, container.start_time
    )
    return replace(table, stored_pts_K=pts_K)


def _shown(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    stamps: list[Stamp],
    pts_K: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The packets' times, put right where FFmpeg can only guess which picture is shown when."""
    if not may_be_guessed(container, stream, pts_K):
        return pts_K
    shown_K = display_times(path, stamps)
    if shown_K is not None:
        return shown_K
    if container.format.name in DECODING_TIMES_ONLY and stream.codec_context.has_b_frames:
        raise VideoError(
            path,
            "does not say when its pictures are shown, and their own order cannot be read; "
            "convert it: ffmpeg -i IN OUT.mp4",
        )
    return pts_K


def _check_alone(path: Path, container: InputContainer) -> None:
    """Refuse two files in one where FFmpeg would read the first alone."""
    start = find_second_file(path, container.format.name)
    if start is not None:
        raise VideoError(
            path,
            f"holds a second file from byte {start} on, as files joined by `cat`; only the first "
            f"would be read. Join them another way: {JOIN_COMMAND}",
        )


def _check_clock(path: Path, format_name: str, stamps: list[Stamp]) -> None:
    """Refuse frames of two timelines, which cannot be put in one order."""
    restart = clock.find_restart(stamps)
    if restart is not None:
        remedy = f"To give it one clock, copy it first: {COPY_COMMAND}"
        if format_name == "ogg":  # the head of the second file cannot be copied
            remedy = f"Join them another way: {JOIN_COMMAND.replace('.mp4', '.ogv')}"
        raise VideoError(
            path,
            f"has times that jump back after its first {restart} frames, as in files joined by "
            f"`cat`. {remedy}",
        )


def _check_complete(path: Path, container: InputContainer, end_s: float) -> None:
    """Compare the length that the file announces, if any, with what is there."""
    if container.duration is None or "matroska" in container.format.name:
        return  # Matroska's length is often wrong; its elements have been checked instead
    # The announced number of frames would not do: in a trimmed MP4 it includes hidden ones.
    # ASF and FLV count from second 0, others from the beginning of the first stream.
    start = 0 if container.format.name in ("asf", "flv") else container.start_time or 0
    announced_s = (container.duration + start) / 1e6
    if end_s < announced_s - MAX_MISSING_S:
        raise VideoError(
            path,
            f"is truncated: it ends at {end_s:.1f} s of the {announced_s:.1f} s announced. "
            f"To use what is there, copy it first: {COPY_COMMAND}",
        )


def _check_skeleton(path: Path) -> None:
    """Matroska only: find what FFmpeg's reader skips without an error."""
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

    Not shown: packets outside the file's edit list. Not decodable: whatever precedes the first key
    frame in the file or in time, as in a clip cut from a broadcast. Two packets with the same time
    are one frame.
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
        stored_pts_K=pts_K,
        is_key_K=is_key_K,
        frame_pts_F=frame_pts_F,
        frame_position_F=np.flatnonzero(is_frame_K)[first_of_time_F],
        time_base=time_base,
        origin_pts=origin_pts,
    )


def average_fps(packets: PacketTable, header_rate: Fraction | None) -> float:
    """The header's frame rate, as the released code uses it, unless the times contradict it.

    Recordings made in a browser, for example, announce 1000 frames per second; sampled at 1 frame
    per second they would lose nearly all their frames.
    """
    header = float(header_rate) if header_rate else 0.0
    if packets.span_s <= 0:
        return header or 1.0
    measured = (len(packets.frame_pts_F) - 1) / packets.span_s
    return header if abs(header - measured) <= MAX_RATE_ERROR * measured else measured
