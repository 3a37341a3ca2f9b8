"""Chosen frames of a video through PyAV: exact, and decoding no more than they depend on.

(Canvas, frame indices) -> the fitted frames, uint8 Y X C, one after the other.

A frame depends on the packets from the key frame before it up to its own, in decoding order. The
packet table says which those are for all chosen frames. Every other packet is read and dropped, so
after one seek to the beginning the file is read forward once. Frames are recognised by their
timestamp, never by counting. The decoder skips H.264 pictures that no other refers to, unless they
are chosen: about half of a usual file.

A packet that fails to decode, a picture that the decoder marks as damaged, or one that never comes
is an error, because every later picture up to the next key frame is built on it. Wrong pixels that
decode without an error cannot be told from right ones.

Some files call every frame a key frame: an AVI without an index, for example. What the decoder says
about the first picture of a run shows it; then the file is decoded from its beginning.

Shapes: F frames, K packets in decoding order, Y rows, X columns, C colour channels.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longva_ray.video.canvas import Canvas
from longva_ray.video.container import VideoError, open_container, video_stream
from longva_ray.video.packets import PacketTable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

EXTRA_GROUPS = 8
"""Key frames further back from which a frame that came out broken is decoded once more."""

_REFER_TO_OTHERS = (2, 3, 4)
"""PyAV's types of pictures that cannot be decoded alone: P, B and S."""

_MARK_MISSING = ("h264", "hevc")
"""Decoders that mark a picture as damaged when those it refers to are missing."""


class _FalseKeyError(VideoError):
    """A frame that the file calls a key frame refers to others."""


def pyav_frames(
    canvas: Canvas, frame_index_F: npt.NDArray[np.int64], *, num_threads: int
) -> Generator[npt.NDArray[np.uint8], None, None]:
    """Decode and fit the chosen frames (strictly increasing).

    Raises VideoError that names the frame at which the file breaks.
    """
    done = 0
    # With intra refresh, pictures only become whole within a group after what the file calls a key
    # frame. Then decoding starts some groups earlier; if that does not help, the file is damaged.
    # Only where the key frames are false does it start at the first one.
    all_groups = len(canvas.info.packets.pts_K)
    for extra_groups in (0, EXTRA_GROUPS, all_groups):
        try:
            for frame_YXC in _decode(canvas, frame_index_F[done:], extra_groups, num_threads):
                yield frame_YXC
                done += 1
            return
        except VideoError as error:
            if extra_groups and not isinstance(error, _FalseKeyError):
                raise


def key_positions(
    packets: PacketTable, frame_index_F: npt.NDArray[np.int64], extra_groups: int = 0
) -> npt.NDArray[np.int64]:
    """Where decoding has to begin for each chosen frame: the position of its key frame, shape F.

    `extra_groups`: begin that many key frames earlier.
    """
    keys = np.flatnonzero(packets.is_key_K)
    start_F = np.zeros(len(frame_index_F), dtype=np.int64)
    for f, position in enumerate(packets.frame_position_F[frame_index_F]):
        key = int(np.searchsorted(keys, position, side="right")) - 1
        # A picture that follows a key frame in the file but is shown before it depends on the group
        # before.
        while key > 0 and packets.pts_K[keys[key]] > packets.pts_K[position]:
            key -= 1
        start_F[f] = keys[max(0, key - extra_groups)]
    return start_F


def _decode(
    canvas: Canvas, frame_index_F: npt.NDArray[np.int64], extra_groups: int, num_threads: int
) -> Iterator[npt.NDArray[np.uint8]]:
    path, packets = canvas.info.path, canvas.info.packets
    is_needed_K = np.zeros(len(packets.pts_K), dtype=bool)
    start_F = key_positions(packets, frame_index_F, extra_groups)
    for start, end in zip(start_F, packets.frame_position_F[frame_index_F], strict=True):
        is_needed_K[start : end + 1] = True
    # Some containers' seeks land too late; then the file is read from its beginning.
    for start in (int(is_needed_K.argmax()), 0):
        with open_container(path) as container:
            stream = video_stream(path, container)
            position = _seek(container, stream, packets, start)
            if position is None:
                continue
            decoding = _Decoding(canvas, stream, frame_index_F, num_threads)
            for k, packet in _read(canvas, container, stream, position):
                if is_needed_K[k]:
                    yield from decoding.decode(packet)
                else:
                    yield from decoding.finish_run()
                if decoding.is_done:
                    return
            yield from decoding.finish_run()
            decoding.check_done()
            return


def _seek(
    container: "InputContainer", stream: "VideoStream", packets: PacketTable, start: int
) -> int | None:
    """Go to packet `start` or an earlier one; returns which one, or None if that is unknown."""
    import av

    if start == 0:
        return 0
    if not np.array_equal(packets.stored_pts_K, packets.pts_K):
        return None  # after a seek FFmpeg would guess other times
    offset = int(packets.pts_K[start])
    try:
        container.seek(offset, stream=stream)
        landed = next(container.demux(stream)).pts
        container.seek(offset, stream=stream)  # again: looking has consumed the packet
    except av.FFmpegError:
        return None
    # No packet has the time None, so a seek past the end finds nothing here.
    positions = np.flatnonzero(packets.pts_K == landed).tolist()
    return positions[0] if len(positions) == 1 and positions[0] <= start else None


class _Decoding:
    """The decoder's state during runs of needed packets; each run begins with a key frame."""

    def __init__(
        self,
        canvas: Canvas,
        stream: "VideoStream",
        frame_index_F: npt.NDArray[np.int64],
        num_threads: int,
    ) -> None:
        self._canvas = canvas
        self._codec = stream.codec_context
        self._codec.thread_count = num_threads
        self._codec.thread_type = "AUTO" if num_threads > 1 else "NONE"
        packets = canvas.info.packets
        self._wanted: list[int] = packets.frame_pts_F[frame_index_F].tolist()
        self._is_wanted = frozenset(self._wanted)
        self._key_pts = packets.pts_K[key_positions(packets, frame_index_F)].tolist()
        self._next = 0
        self._is_running = False
        self._first_pts = int(packets.pts_K[packets.is_key_K.argmax()])
        self._run_pts = self._first_pts
        # Pictures shown before the key frame of a run's first chosen frame depend on pictures that
        # are not decoded. They may fail, and are ignored.
        self._whole_from = 0
        # Only H.264 marks pictures that nothing at all refers to; HEVC's mark covers one layer.
        self._can_skip = self._codec.name == "h264"

    @property
    def is_done(self) -> bool:
        return self._next == len(self._wanted)

    def decode(self, packet: "Packet[VideoStream]") -> Iterator[npt.NDArray[np.uint8]]:
        """Feed one needed packet, yield the chosen frames that come out."""
        import av

        assert packet.pts is not None
        if not self._is_running:
            self._is_running, self._whole_from = True, self._key_pts[self._next]
            self._run_pts = packet.pts
        if self._can_skip:
            self._codec.skip_frame = "DEFAULT" if packet.pts in self._is_wanted else "NONREF"
        try:
            frames = self._codec.decode(packet)
        except av.FFmpegError as error:
            if packet.pts >= self._whole_from:
                raise self._broken(packet.pts, str(error.strerror)) from error
            return
        yield from self._chosen(frames)

    def finish_run(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Get the frames that the decoder still holds and make it ready for another key frame."""
        import av

        if not self._is_running:
            return
        try:
            frames = self._codec.decode(None)
        except av.FFmpegError as error:
            if self.is_done:
                return
            raise self._broken(self._wanted[self._next], str(error.strerror)) from error
        yield from self._chosen(frames)
        self._codec.flush_buffers()
        self._is_running = False

    def check_done(self) -> None:
        if not self.is_done:
            raise self._broken(self._wanted[self._next], "it is missing")

    def _chosen(self, frames: "list[VideoFrame]") -> Iterator[npt.NDArray[np.uint8]]:
        for frame in frames:
            self._check_key(frame)
            if self.is_done or frame.pts is None or frame.pts < self._whole_from:
                continue
            wanted = self._wanted[self._next]
            if frame.is_corrupt or frame.pts > wanted:
                pts, why = (frame.pts, "damaged") if frame.is_corrupt else (wanted, "missing")
                raise self._broken(pts, f"it is {why}")
            if frame.pts == wanted:
                self._next += 1
                yield self._canvas.fit(frame)

    def _check_key(self, frame: "VideoFrame") -> None:
        """Raise _FalseKeyError if a run begins with a picture whose references were not decoded."""
        is_first_of_run = frame.pts == self._run_pts and self._run_pts != self._first_pts
        if (
            is_first_of_run
            and frame.pict_type in _REFER_TO_OTHERS
            and self._codec.name not in _MARK_MISSING
        ):
            raise _FalseKeyError(self._canvas.info.path, "has key frames that are none")

    def _broken(self, pts: int, why: str) -> VideoError:
        packets = self._canvas.info.packets
        index = int(np.searchsorted(packets.frame_pts_F, pts))
        seconds = float(packets.seconds(np.array([pts]))[0])
        return VideoError(
            self._canvas.info.path,
            f"breaks at frame {index} of {len(packets.frame_pts_F)} ({seconds:.2f} s): {why}. "
            "If it plays well anyway, encode it again: ffmpeg -i IN OUT.mp4",
        )


def _read(
    canvas: Canvas, container: "InputContainer", stream: "VideoStream", position: int
) -> "Iterator[tuple[int, Packet[VideoStream]]]":
    """The video packets from `position` in the packet table on, with its times: (position,
    packet)."""
    import av

    path, pts_K = canvas.info.path, canvas.info.packets.pts_K
    stored_pts_K = canvas.info.packets.stored_pts_K
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if position >= len(pts_K) or packet.pts != stored_pts_K[position]:
                raise VideoError(path, "has changed since it was probed; probe it again")
            packet.pts = int(pts_K[position])
            yield position, packet
            position += 1
    except av.FFmpegError as error:
        raise VideoError(path, f"is damaged ({error.strerror})") from error
