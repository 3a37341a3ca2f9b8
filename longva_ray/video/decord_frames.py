"""Chosen frames of a video through decord, for those who ask for it.

(Canvas, frame indices) -> the fitted frames, uint8 Y X C, one after the other: as `pyav_frames`.

decord's `get_batch` takes frames by their number and seeks by itself. It is the fastest of its
calls for a regular pattern (decoding with `next` scales every frame, and `skip_frames` may miss its
goal). It counts frames instead of looking at their times, so it is only trusted where counting is
right: as many frames as in the packet table, at the same times, none of them hidden, undecodable or
shown before the key frame that they follow. It turns pictures as a file's header asks, but mirrors
none and does not see what the stream asks, so only upright pictures are left to it. Everything else
goes to PyAV, and so does the rest of a video after decord has failed. `decode.py` says what cannot
be guarded against.

Shapes: F frames, K packets in decoding order, Y rows, X columns, C colour channels.
"""

import importlib.util
import logging
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from longva_ray.video.canvas import Canvas
from longva_ray.video.container import local_file
from longva_ray.video.orientation import Orientation
from longva_ray.video.packets import PacketTable
from longva_ray.video.pyav_frames import pyav_frames

logger = logging.getLogger(__name__)

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers in which decord's seeks land where they should; in MPEG-TS they do not."""

BATCH_FRAMES = 16
"""Frames asked of decord at a time: bounds what is held, and what is repeated after a failure."""

MAX_TIME_ERROR_S = 2e-3
"""decord gives times as 32-bit seconds, some containers round them to milliseconds."""


def decord_frames(
    canvas: Canvas, frame_index_F: npt.NDArray[np.int64], *, num_threads: int
) -> Generator[npt.NDArray[np.uint8], None, None]:
    """Decode and fit the chosen frames (strictly increasing), by PyAV where decord is not trusted.

    Raises VideoError that names the frame at which the file breaks.
    """
    done = 0
    reader, why_not = _open_reader(canvas, num_threads)
    if reader is not None:
        logger.info("%s: decoded by decord", canvas.info.path)
    while reader is not None and done < len(frame_index_F):
        batch_F = frame_index_F[done : done + BATCH_FRAMES]
        scaled_FYXC, why_not = _read_batch(reader, batch_F)
        if scaled_FYXC is None:
            break
        for scaled_YXC in scaled_FYXC:
            yield canvas.finish(scaled_YXC)
        done += len(batch_F)
    if done < len(frame_index_F):
        logger.info("%s: decoded by PyAV: %s", canvas.info.path, why_not)
        yield from pyav_frames(canvas, frame_index_F[done:], num_threads=num_threads)


def _read_batch(
    reader: Any, batch_F: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """The scaled frames F Y X C, or None and what went wrong."""
    import decord

    try:
        return reader.get_batch(batch_F).asnumpy(), ""
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
        return None, f"decord failed at frame {batch_F[0]} ({_last_line(error)})"


def _open_reader(canvas: Canvas, num_threads: int) -> tuple[Any, str]:
    """A decord reader that scales for `canvas`, or None and why it is not used for this file."""
    info = canvas.info
    if info.container not in CONTAINERS or not counts_are_right(info.packets):
        return None, f"decord's counting is not trusted with this {info.container} file"
    if info.orientation != Orientation():
        return None, "decord does not turn and mirror every picture as a player does"
    if importlib.util.find_spec("decord") is None:
        return None, "decord is not installed"
    import decord

    width, height = canvas.decoded_size or (-1, -1)  # -1: as stored
    try:
        reader = decord.VideoReader(
            local_file(info.path),
            ctx=decord.cpu(0),
            width=width,
            height=height,
            num_threads=num_threads,
            # A share of the frames so small that the first one decord would repeat is an error.
            fault_tol="0.0000001",
        )
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        return None, f"decord cannot open it ({_last_line(error)})"
    if len(reader) != info.num_frames:
        return None, f"decord counts {len(reader)} frames of {info.num_frames}"
    start_s_F = reader.get_frame_timestamp(np.arange(info.num_frames))[:, 0]
    own_s_F = info.packets.seconds(info.packets.frame_pts_F)
    # decord's second 0 is the first frame, ours is the beginning of the file.
    if np.abs(start_s_F - (own_s_F - own_s_F[0])).max() > MAX_TIME_ERROR_S:
        return None, "decord sees other times"
    return reader, ""


def counts_are_right(packets: PacketTable) -> bool:
    """Whether the n-th picture out of a decoder, from any key frame on, is the n-th frame shown."""
    key_positions = np.flatnonzero(packets.is_key_K)
    key_of_K = np.cumsum(packets.is_key_K) - 1
    leads_its_key_K = packets.pts_K < packets.pts_K[key_positions[np.maximum(key_of_K, 0)]]
    return len(packets.frame_pts_F) == len(packets.pts_K) and not bool(leads_its_key_K.any())


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][-120:]
