"""Whether the clock of a video starts anew inside the file, as when two files were joined by `cat`.

Decoding times, display times and key frames of the packets, in the file's order -> the first packet
of a second timeline, or None.

FFmpeg hands out the times as they are stored. Put in one order, the pictures of two timelines would
be mixed, and those with equal times would be taken for one. Only containers that store decoding
times, or whose pictures never change their order, are looked at (`CONTAINERS`): elsewhere FFmpeg
guesses them. A decoding time that is a little early does no harm by itself, since pictures are put
in the order of their display times.
"""

from __future__ import annotations

from typing import NamedTuple

CONTAINERS = ("mpegts", "mpeg", "flv", "ogg")
"""FFmpeg's names of the containers whose decoding times are those stored. Ogg has one for both."""


class Stamp(NamedTuple):
    """The times of one packet, in ticks."""

    dts: int | None
    """When it is decoded; None if the file does not say."""
    pts: int
    """When it is shown."""
    is_key: bool


def find_restart(stamps: list[Stamp]) -> int | None:
    """The position of the first packet that cannot follow those before it on one timeline."""
    shown: set[int] = set()
    last_dts = last_pts = None
    for position, (dts, pts, is_key) in enumerate(stamps):
        if dts is not None and last_dts is not None and last_pts is not None:
            is_repeat = pts in shown
            # Nothing is shown before it is decoded, and no picture before a key frame in the file
            # is shown after it.
            is_late = pts < last_dts or (is_key and pts < last_pts)
            if dts < last_dts and (is_repeat or is_late):
                return position
            if dts == last_dts and is_key and is_repeat:
                return position
        shown.add(pts)
        last_pts = pts if last_pts is None else max(last_pts, pts)
        if dts is not None:
            last_dts = dts if last_dts is None else max(last_dts, dts)
    return None
