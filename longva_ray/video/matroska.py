"""Whether the skeleton of a Matroska or WebM file is whole.

path -> where the first broken element lies, or None.

When FFmpeg's reader meets a broken element, it skips to the next cluster that it recognises.
Seconds of packets vanish without an error, and what follows is decoded against pictures that never
came. So the elements are walked here, headers only: each must be allowed where it is, and end where
the next one begins. (An MP4 needs no such walk: its index says where each packet lies.)

Not checked: the content of the blocks, which is the decoder's work, and their times.

Elements and their sizes: https://www.rfc-editor.org/rfc/rfc9559 and rfc8794.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_BLOCK_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_TRACKS, _TRACK_ENTRY, _TRACK_NUMBER = 0x1654AE6B, 0xAE, 0xD7

_ENTERED = frozenset({_CLUSTER, _BLOCK_GROUP})
"""Elements whose children are walked; all others are stepped over."""

_STEPPED_OVER = frozenset(
    {
        *(0x114D9B74, 0x1549A966, _TRACKS, 0x1C53BB6B),  # seek head, info, tracks, cues
        *(0x1043A770, 0x1254C367, 0x1941A469),  # chapters, tags, attachments
        *(0xE7, 0xA7, 0xAB, 0x5854, 0xAF, _SIMPLE_BLOCK),  # of a cluster
        *(_BLOCK, 0x9B, 0xFB, 0xFD, 0xFA, 0xA4, 0xA2, 0x8E, 0x75A1, 0x75A2),  # of a block group
        *(0xEC, 0xBF),  # padding and checksums, which may stand anywhere
    }
)


def find_broken_element(path: Path) -> int | None:
    """Position in bytes of the first element that is unknown, misplaced or cut off, or None.

    A block of a track that the file does not announce counts as broken. Reads the headers only.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = 0
        tracks: set[int] = set()
        try:
            for wanted in (_EBML, _SEGMENT):
                element, position, size = element_header(data, position)
                if element != wanted:
                    return 0
                end = len(data) if size is None else position + size
                position = end if element == _EBML else position
            if end > len(data):
                return len(data)
            while position < end:
                start = position
                element, position, size = element_header(data, position)
                if element in (_BLOCK, _SIMPLE_BLOCK):
                    track, _, _ = _number(data, position)
                    if track not in tracks:
                        return start
                if element in _ENTERED:
                    continue
                if element not in _STEPPED_OVER or size is None or position + size > end:
                    return start
                if element == _TRACKS:
                    tracks |= set(_track_numbers(data, position, position + size))
                position += size
        except IndexError:
            return position
    return None


def _track_numbers(data: mmap.mmap, position: int, end: int) -> Iterator[int]:
    """The numbers of the tracks announced between `position` and `end`."""
    while position < end:
        element, position, size = element_header(data, position)
        if element == _TRACK_NUMBER and size is not None:
            yield int.from_bytes(data[position : position + size], "big")
        if element != _TRACK_ENTRY:
            position += size or 0


def element_header(data: mmap.mmap, position: int) -> tuple[int, int, int | None]:
    """Element at `position`: identifier, where its content begins, its length (None: open)."""
    length = 9 - data[position].bit_length()
    element = int.from_bytes(data[position : position + length], "big")
    size, position, is_open = _number(data, position + length)
    return element, position, None if is_open else size


def _number(data: mmap.mmap, position: int) -> tuple[int, int, bool]:
    """Variable-length number: its value, where it ends, whether it is the one that means unknown.

    The leading zeros of the first byte say how many bytes follow. Raises IndexError at the end.
    """
    length = 9 - data[position].bit_length()
    limit = 1 << 7 * length
    value = int.from_bytes(data[position : position + length], "big") & (limit - 1)
    return value, position + length, value == limit - 1
