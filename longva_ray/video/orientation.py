"""How a stored picture is turned and mirrored before it is shown.

A display matrix (a file's header or an H.264/HEVC stream has one) -> Orientation; a stored picture
Y X C -> the same picture upright.

Four turns, each with or without a mirror, are all that moves pixels without changing them. What
lies between is rounded to the nearest quarter turn. Not done here: scaling, which the matrix also
allows, and shifting.

Shapes: Y rows, X columns, C colour channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.sidedata.sidedata import SideDataContainer
    from av.video.frame import VideoFrame


@dataclass(frozen=True, kw_only=True, slots=True)
class Orientation:
    """Mirror first, if at all, then turn."""

    rotation: int = 0
    """Degrees clockwise: 0, 90, 180 or 270."""
    is_mirrored: bool = False
    """Left and right are exchanged."""

    @property
    def swaps_sides(self) -> bool:
        """Whether the rows of the stored picture are columns of the upright one."""
        return self.rotation in (90, 270)

    def upright(self, stored_YXC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The picture as it is shown, without a copy."""
        if self.is_mirrored:
            stored_YXC = stored_YXC[:, ::-1]
        # np.rot90 turns counterclockwise.
        return np.rot90(stored_YXC, k=-(self.rotation // 90))


def orientation_from_matrix(matrix: Sequence[int]) -> Orientation:
    """Read a display matrix: a b u c d v x y w, where (X, Y) is shown at (aX + cY, bX + dY).

    X counts to the right, Y down. A matrix that shows every picture as a line or a point says
    nothing, and is ignored.
    """
    a, b, _, c, d = matrix[:5]
    determinant = a * d - b * c
    if determinant == 0:
        return Orientation()
    is_mirrored = determinant < 0
    if is_mirrored:
        a, b = -a, -b  # what is left after the mirror is a turn
    # Each axis may be scaled by a factor; the turn is what remains without it.
    degrees = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    return Orientation(rotation=round(degrees / 90) * 90 % 360, is_mirrored=is_mirrored)


def orientation_of(frame: VideoFrame) -> Orientation:
    """What the decoder says about a picture: the file's matrix, or the one in the stream."""
    side_data = cast("SideDataContainer", frame.side_data).get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation()
    return orientation_from_matrix(np.frombuffer(bytes(side_data), dtype=np.int32).tolist())
