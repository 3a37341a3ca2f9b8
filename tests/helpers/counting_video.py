"""Videos whose frame k shows k, so that a test can tell which frames it got."""

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from longva_ray.video.write import FAST_H264, Frame, write_video

CODE_SIDE = 4
"""A counting frame's code has this many rows and columns of cells, one bit each."""

MAX_COUNT = 2 ** (CODE_SIDE * CODE_SIDE)
"""A counting video has at most this many frames."""


def write_counting_video(
    path: str | os.PathLike[str],
    num_frames: int,
    fps: float | Fraction,
    *,
    size: tuple[int, int] = (160, 120),
    codec: str = "libx264",
    options: Mapping[str, str] = FAST_H264,
    rotation: int = 0,
    timestamps_s: Iterable[float] | None = None,
) -> None:
    """Write a video whose frame k shows k; `size` is (width, height), the rest as `write_video`."""
    if not 1 <= num_frames <= MAX_COUNT:
        raise ValueError(f"a counting video of {num_frames} frames; wanted 1..{MAX_COUNT}")
    write_video(
        path,
        (draw_counting_frame(k, size) for k in range(num_frames)),
        fps=fps,
        codec=codec,
        options=options,
        rotation=rotation,
        timestamps_s=timestamps_s,
    )


def draw_counting_frame(k: int, size: tuple[int, int]) -> Frame:
    """k as 4 x 4 cells, white for 1, most significant bit first, inside a white frame on gray.

    The code is in the middle of the picture, where every fitting keeps it. Black and white blocks
    survive lossy coding and resizing.
    """
    width, height = size
    side = int(min(size) * 0.8)
    border = max(2, side // 12)
    cell = (side - 2 * border) // CODE_SIDE
    side = cell * CODE_SIDE + 2 * border
    top, left = (height - side) // 2, (width - side) // 2
    frame_YXC = np.full((height, width, 3), 64, dtype=np.uint8)
    frame_YXC[top : top + side, left : left + side] = 255
    bits = [k >> bit & 1 for bit in reversed(range(CODE_SIDE * CODE_SIDE))]
    code_YX = np.array(bits, dtype=np.uint8).reshape(CODE_SIDE, CODE_SIDE) * np.uint8(255)
    pixels_YX = code_YX.repeat(cell, axis=0).repeat(cell, axis=1)
    inner_Y, inner_X = (
        slice(top + border, top + side - border),
        slice(left + border, left + side - border),
    )
    frame_YXC[inner_Y, inner_X] = pixels_YX[:, :, None]
    return frame_YXC


def read_counting_frame(frame_YXC: Frame) -> int:
    """The number that a frame of a counting video shows, at any size, with bars or cut sides.

    Raises ValueError for a frame that shows no code, or one that cannot be read for certain.
    """
    gray_YX = frame_YXC.astype(np.float32).mean(axis=-1)
    rows, columns = (np.flatnonzero((gray_YX > 160).any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        raise ValueError("the frame shows no counting code")
    value = 0
    for y in range(CODE_SIDE):
        for x in range(CODE_SIDE):
            level = _cell_level(gray_YX, rows, columns, y, x)
            if 96 < level < 160:
                raise ValueError(f"cell ({y}, {x}) of the counting code is gray ({level:.0f})")
            value = value << 1 | (level > 128)
    return value


def _cell_level(
    gray_YX: npt.NDArray[np.float32],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    y: int,
    x: int,
) -> float:
    """Mean brightness in the middle of a cell, found from where the white frame begins and ends."""
    middle = []
    for lines, position in ((rows, y), (columns, x)):
        start, side = lines[0], lines[-1] + 1 - lines[0]
        # The frame around the cells takes a twelfth of the side at each end.
        centre = start + side * (1 / 12 + (position + 0.5) / CODE_SIDE * 10 / 12)
        middle.append(slice(int(centre - side / 24), max(int(centre + side / 24), int(centre) + 1)))
    return float(gray_YX[middle[0], middle[1]].mean())
