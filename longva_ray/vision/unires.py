"""UniRes: an image becomes a row-major list of square grids; a video frame is one grid.

    PIL image (any mode, any size) -> grids_GYXC uint8, G = columns * rows

Section 3.2 and Appendix B of the LongVA paper (https://arxiv.org/abs/2406.16852). There is no
downscaled base image: the released code encodes one and then drops it, so here it is never made.

Two rules choose the number of grids, because the paper and the released code disagree:

    rule        1x1    336x336  640x480  1920x1080
    "paper"     1x1    1x1      1x1      5x3        the whole grids in the image, at most 49
    "released"  1x2    1x2      2x2      6x4        the best of all canvases of 2 to 49 grids

How an image is put on a canvas of another shape is the project's one fitting
(`longva_ray.video.pillow_fit`), the same for images, needles, haystacks and chat frames. The
exception is a letterbox under "released": the original checkpoints saw images whose free side was
rounded up, where ours is rounded to the nearest pixel. One row more or less moves nine pixels in
ten, so `released_letterbox` repeats it.
Its bars are black with "letterbox_mean" too: there, only frames have bars of the mean colour.

Shape suffixes: G grids, Y and X pixel rows and columns, C channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longva_ray.video.fitting import LETTERBOXES, Fitting
from longva_ray.video.pillow_fit import fit_image
from longva_ray.vision.fit_image import released_letterbox
from longva_ray.vision.upright_image import upright_rgb

GridRule = Literal["paper", "released"]


GRID_SIZE = 336  # paper, section 3.2: the resolution of CLIP-ViT-L-336px


MAX_GRIDS = 49  # paper, section 3.2


def grid_shape(
    width: int,
    height: int,
    *,
    rule: GridRule,
    grid_size: int = GRID_SIZE,
    max_grids: int = MAX_GRIDS,
) -> tuple[int, int]:
    """Columns and rows of grids for an image of `width` x `height` pixels.

    Always `1 <= columns * rows <= max_grids`.

    Raises:
        ValueError: an empty image, an unknown rule, or a `max_grids` the rule cannot satisfy.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image needs at least one pixel, got {width}x{height}")
    if grid_size < 1 or max_grids < 1:
        raise ValueError(f"want grid_size >= 1 and max_grids >= 1, got {grid_size} and {max_grids}")
    if rule == "paper":
        return _whole_grids(width, height, grid_size, max_grids)
    if rule == "released":
        return _best_canvas(width, height, grid_size, max_grids)
    raise ValueError(f"unknown grid rule {rule!r}, want 'paper' or 'released'")


def split_image(
    image: Image.Image,
    *,
    rule: GridRule,
    fitting: Fitting,
    grid_size: int = GRID_SIZE,
    max_grids: int = MAX_GRIDS,
) -> NDArray[np.uint8]:
    """Resize an image onto its canvas and cut the canvas into grids.

    EXIF orientation is honoured; palette, grey and RGBA images become RGB (alpha is dropped, not
    blended).

    Returns:
        grids_GYXC, G = columns * rows in raster order, Y = X = grid_size, C = 3.
    """
    rgb = upright_rgb(image)
    columns, rows = grid_shape(*rgb.size, rule=rule, grid_size=grid_size, max_grids=max_grids)
    canvas_width, canvas_height = columns * grid_size, rows * grid_size
    if rule == "released" and fitting in LETTERBOXES:
        canvas_YXC = released_letterbox(rgb, canvas_width, canvas_height)
    else:
        canvas_YXC = fit_image(rgb, canvas_width, canvas_height, fitting)
    tiles = canvas_YXC.reshape(rows, grid_size, columns, grid_size, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles).reshape(rows * columns, grid_size, grid_size, 3)


def _whole_grids(width: int, height: int, grid_size: int, max_grids: int) -> tuple[int, int]:
    """The paper's rule: (a // 336) x (b // 336) grids, or those of the largest scale allowed."""
    columns, rows = max(1, width // grid_size), max(1, height // grid_size)
    if columns * rows <= max_grids:
        return columns, rows
    # Grow the image from nothing with its aspect kept. A column appears at the scale (columns + 1)
    # * grid / width, a row at (rows + 1) * grid / height. Compared as integers, so that a tie (a
    # square) is a tie.
    columns = rows = 1
    while True:
        column_due, row_due = (columns + 1) * height, (rows + 1) * width
        next_columns = columns + (column_due <= row_due)
        next_rows = rows + (row_due <= column_due)
        if next_columns * next_rows > max_grids:
            return columns, rows
        columns, rows = next_columns, next_rows


@lru_cache(maxsize=8)
def _canvases(max_grids: int) -> tuple[tuple[int, int], ...]:
    """Every (columns, rows) with 2 to `max_grids` grids, in lexicographic order (49: 200)."""
    if max_grids < 2:
        raise ValueError(
            f"the released rule has no canvas below 2 grids, got max_grids={max_grids}"
        )
    return tuple(
        (columns, rows)
        for columns in range(1, max_grids + 1)
        for rows in range(1, max_grids // columns + 1)
        if columns * rows > 1
    )


def _best_canvas(width: int, height: int, grid_size: int, max_grids: int) -> tuple[int, int]:
    """The released rule: keep most pixels, then waste least canvas; first in the list wins."""

    def merit(canvas: tuple[int, int]) -> tuple[int, int]:
        canvas_width, canvas_height = canvas[0] * grid_size, canvas[1] * grid_size
        scale = min(canvas_width / width, canvas_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - canvas_width * canvas_height

    return max(_canvases(max_grids), key=merit)
