"""The order in which pictures are shown, where a file only says when each is decoded.

AVI and ASF store one time for each packet, and so does Matroska for tracks that come from AVI. It
is the time of decoding. FFmpeg derives the times of display from it: rightly for MPEG-2 and MPEG-4,
whose kinds of pictures it reads, but for H.264 and HEVC it lets them increase with the packets.
Then the pictures between which others refer back to are given each other's times.

An H.264 or HEVC picture carries its own place in the order, which FFmpeg's filter `dts2pts` reads
without decoding. Where key frames follow each other closely the filter may fail; then the pictures
are decoded. MPEG-4 has a second trap, packets that hold two pictures ("packed B-frames", by
DivX and XviD): no time of display fits such a packet.

Shapes: K packets in the file's (decoding) order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longva_ray.video.clock import Stamp
from longva_ray.video.container import open_container, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

DECODING_TIMES_ONLY = ("avi", "asf")
"""FFmpeg's names of the containers without times of display."""

_MPEG4_PICTURE = b"\x00\x00\x01\xb6"
"""Comes before every picture; the next two bits are its type."""

_TYPE_B = 2

_LOOK_AHEAD = 32
"""Packets: twice the most pictures by which H.264 and HEVC reorder."""


def may_be_guessed(
    container: InputContainer, stream: VideoStream, pts_K: npt.NDArray[np.int64]
) -> bool:
    """Whether the times of display may be in another order than the pictures."""
    codec = stream.codec_context
    may_reorder = codec.has_b_frames or container.format.name in DECODING_TIMES_ONLY
    return codec.name in ("h264", "hevc") and may_reorder and bool((np.diff(pts_K) >= 0).all())


def display_times(path: Path, stamps: list[Stamp]) -> npt.NDArray[np.int64] | None:
    """When each packet's picture is shown, shape (K,); None if that is not to be had.

    One more pass over the file, and a third that decodes all of it where the filter fails. FFmpeg's
    times are kept where they can be true.
    """
    pts_K = np.array([stamp.pts for stamp in stamps], dtype=np.int64)
    place_K = _places_by_filter(path, len(stamps))
    if place_K is None:
        place_K = _places_by_decoding(path, pts_K)
    if place_K is None:
        return None
    is_in_order = np.array_equal(place_K, np.arange(len(stamps)))
    if is_in_order and (np.diff(pts_K) > 0).all():
        return pts_K
    # FFmpeg's guess for the last packet is often too early. The times of decoding are those of
    # display, but for a delay.
    dts = [stamp.dts for stamp in stamps]
    times_K = pts_K if None in dts else np.array(dts, dtype=np.int64) + pts_K[0] - (dts[0] or 0)
    return None if (np.diff(times_K) <= 0).any() else times_K[place_K]


def _places_by_filter(path: Path, num_packets: int) -> npt.NDArray[np.int64] | None:
    """The place of each packet's picture among all as they are shown, shape (K,); None if it cannot
    be told."""
    import av
    from av.bitstream import BitStreamFilterContext

    found: list[int | None] = []
    with open_container(path) as container:
        stream = video_stream(path, container)
        try:
            reorder = BitStreamFilterContext("dts2pts", stream)
            for number, content in enumerate(_with_more_at_the_end(container, stream)):
                packet = av.Packet(content)
                packet.dts, packet.time_base = number, stream.time_base
                found += [each.pts for each in reorder.filter(packet)]
            found += [each.pts for each in reorder.filter(None)]
        except (av.FFmpegError, ValueError):
            return None
    # What is found is the place, but for a delay.
    places = [place for place in found[:num_packets] if place is not None]
    if len(places) < num_packets:
        return None
    place_K = np.array(places, dtype=np.int64) - min(places)
    return place_K if np.array_equal(np.sort(place_K), np.arange(num_packets)) else None


def _with_more_at_the_end(container: InputContainer, stream: VideoStream) -> Iterator[bytes]:
    """The packets, then the first ones again.

    The filter looks for the time of a picture among the packets that follow, and goes wrong where a
    file ends.
    """
    first: list[bytes] = []
    for packet in container.demux(stream):
        if packet.size:
            content = bytes(packet)
            yield content
            if len(first) < _LOOK_AHEAD:
                first.append(content)
    yield from first


def _places_by_decoding(path: Path, pts_K: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """The same, from the pictures as they come out of the decoder, in the order of display."""
    import av

    with open_container(path) as container:
        try:
            shown = [frame.pts for frame in container.decode(video_stream(path, container))]
        except av.FFmpegError:
            return None
    place = {pts: number for number, pts in enumerate(shown)}
    if len(place) != len(pts_K) or set(place) != set(pts_K.tolist()):
        return None
    return np.array([place[pts] for pts in pts_K.tolist()], dtype=np.int64)


def is_packed(mpeg4: bytes) -> bool:
    """Whether a packet of MPEG-4 video holds a B-frame after its first picture."""
    _, *others = mpeg4.split(_MPEG4_PICTURE)[1:] or [b""]
    return any(other and other[0] >> 6 == _TYPE_B for other in others)
