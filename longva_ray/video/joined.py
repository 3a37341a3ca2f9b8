"""Whether a second file follows inside a video file, as when two were joined by `cat`.

path, FFmpeg's name of the container -> where the second file begins, or None.

FFmpeg takes the end of the first one for the end of all, so the rest of a video would vanish
without an error. MPEG's own containers may be joined so, and AVI is read to its end; their clocks
are looked at elsewhere (`clock.py`). Here only the heads of the outermost parts are read.

Not found: a second file after one that does not say how long it is, as live recordings do.
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from longva_ray.video.matroska import element_header

_FLV_SIGNATURE = b"FLV\x01"

_FLV_TAGS = (8, 9, 18)
"""Audio, video, data."""

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")

_EBML = b"\x1a\x45\xdf\xa3"


def find_second_file(path: Path, container: str) -> int | None:
    """Position in bytes, or None, also for a file that is no longer understood somewhere."""
    for name, search in _SEARCHES.items():
        if name in container.split(","):
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                return search(data)
    return None


def _in_flv(data: mmap.mmap) -> int | None:
    """Tags from the header on, each followed by its length; Adobe's FLV specification, annex E."""
    position = int.from_bytes(data[5:9]) + 4
    while position < len(data):
        if data[position : position + 4] == _FLV_SIGNATURE:
            return position
        if data[position] & 0x1F not in _FLV_TAGS:
            return None
        position += 11 + int.from_bytes(data[position + 1 : position + 4]) + 4
    return None


def _in_mp4(data: mmap.mmap) -> int | None:
    """What follows a second index is not read, not even fragments."""
    has_index, second = False, None
    for kind, position in _mp4_boxes(data):
        if has_index and second is None and kind in (b"ftyp", b"moov"):
            second = position
        if has_index and kind == b"moov":
            return second
        has_index |= kind == b"moov"
    return None


def _mp4_boxes(data: mmap.mmap) -> Iterator[tuple[bytes, int]]:
    """Kind and position of the outermost boxes."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4])
        yield data[position + 4 : position + 8], position
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16])
        if size < 8:
            return  # 0: to the end
        position += size


def _in_asf(data: mmap.mmap) -> int | None:
    position = 0
    while position + 24 <= len(data):
        if position and data[position : position + 16] == _ASF_HEADER:
            return position
        size = int.from_bytes(data[position + 16 : position + 24], "little")
        if size < 24:
            return None
        position += size
    return None


def _in_matroska(data: mmap.mmap) -> int | None:
    position = 0
    for _ in ("header", "segment"):
        _, position, size = element_header(data, position)
        if size is None or position + size >= len(data):
            return None
        position += size
    return position if data[position : position + 4] == _EBML else None


_SEARCHES: dict[str, Callable[[mmap.mmap], int | None]] = {
    "flv": _in_flv,
    "mp4": _in_mp4,
    "asf": _in_asf,
    "matroska": _in_matroska,
}
