"""Open a video file and find its video stream, or say what is wrong with the file.

path -> an open PyAV container -> its video stream; or a VideoError that names the file and the
reason, with the remedy where there is one.

Only containers on a list are opened: FFmpeg's playlist formats would let a text file named .mp4
make it open other files. Pictures that are too large to decode are refused before any memory is
used. Not checked here: whether the file is complete (`packets.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from longva_ray.video.orientation import Orientation

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_SIDE = 16384
"""Longest side decoded, in pixels (H.264 and swscale stop here; 8K is 7680)."""

MAX_PIXELS = 2**26
"""Largest picture decoded: twice 8K. A decoder keeps up to 16 of them, 100 MB each."""

CONTAINERS = "mov,mp4,matroska,webm,avi,flv,asf,mpegts,mpeg,ogg"
"""FFmpeg's names of the containers that are opened."""


class VideoError(ValueError):
    """A video that cannot be used: `path` is the file, `reason` what is wrong, with the remedy."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[Path, str]]:
        # The default would call VideoError(message) when the error crosses a process boundary.
        return type(self), (self.path, self.reason)


def local_file(path: str | os.PathLike[str]) -> str:
    """The name under which FFmpeg opens a local file, whatever the path looks like.

    FFmpeg takes what stands before a colon for a protocol. A path from the root has none.
    """
    return str(Path(path).absolute())


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open with PyAV.

    Raises VideoError for a file that is missing, empty, damaged, or in no listed container.
    """
    import av

    _check_file(path)
    try:
        container = av.open(
            local_file(path),
            options={"format_whitelist": CONTAINERS, "fflags": "+genpts"},
            # Titles are not read, and many old ones are not UTF-8.
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, _why_unopened(path, error)) from error
    with container:
        yield container


def video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The stream that a player would show; an album cover inside a sound file is not one.

    Raises VideoError when there is none, or its pictures cannot be decoded here.
    """
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(path, f"has no video track, only {kinds}")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(path, "uses a codec that this FFmpeg cannot decode; convert it to H.264")
    return stream


def displayed_size(
    width: int, height: int, pixel_aspect: Fraction, orientation: Orientation
) -> tuple[int, int]:
    """(width, height) as a player shows a picture: with square pixels, turned upright."""
    width = max(1, round(width * pixel_aspect))
    return (height, width) if orientation.swaps_sides else (width, height)


def check_size(path: Path, width: int, height: int) -> None:
    """Raise VideoError for pictures of no size, or larger than what is decoded."""
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


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(path, "no such file")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a file"
        raise VideoError(path, f"is {kind}; wanted a video file")
    if path.stat().st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")


def _why_unopened(path: Path, error: Exception) -> str:
    """A reason that a person can act on, read off the first bytes of the file."""
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
