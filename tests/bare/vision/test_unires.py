"""UniRes: the number of grids by both rules, and that cutting loses and reorders nothing."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from longva_ray.video.fitting import LETTERBOXES, MEAN_COLOUR, Fitting
from longva_ray.vision.unires import GridRule, grid_shape, split_image

FITTINGS: tuple[Fitting, ...] = get_args(Fitting)


RULES: tuple[GridRule, ...] = get_args(GridRule)


# (width, height), (columns, rows) by the paper's rule, by the released one; the released column was
# computed with the published list of 200 canvases.
TABLE = [
    ((1, 1), (1, 1), (1, 2)),
    ((335, 335), (1, 1), (1, 2)),
    ((336, 336), (1, 1), (1, 2)),
    ((337, 336), (1, 1), (2, 1)),
    ((336, 672), (1, 2), (1, 2)),
    ((640, 480), (1, 1), (2, 2)),
    ((1, 4000), (1, 11), (1, 12)),
    ((4000, 1), (11, 1), (12, 1)),
    ((1280, 720), (3, 2), (4, 3)),
    ((1920, 1080), (5, 3), (6, 4)),
    ((2352, 2352), (7, 7), (7, 7)),
    ((4000, 3000), (8, 6), (8, 6)),
    ((100_000, 336), (49, 1), (49, 1)),
]


@pytest.mark.parametrize(("size", "paper", "released"), TABLE)
def test_grid_shape_of_known_sizes(
    size: tuple[int, int], paper: tuple[int, int], released: tuple[int, int]
) -> None:
    assert grid_shape(*size, rule="paper") == paper
    assert grid_shape(*size, rule="released") == released


sides = st.integers(1, 8000)


@given(sides, sides, st.sampled_from(RULES), st.integers(2, 49))
def test_grids_never_exceed_the_limit(
    width: int, height: int, rule: GridRule, max_grids: int
) -> None:
    columns, rows = grid_shape(width, height, rule=rule, max_grids=max_grids)
    assert columns >= 1
    assert rows >= 1
    assert columns * rows <= max_grids


@given(sides, sides)
def test_paper_rule_is_whole_grids_when_they_fit(width: int, height: int) -> None:
    columns, rows = max(1, width // 336), max(1, height // 336)
    if columns * rows <= 49:
        assert grid_shape(width, height, rule="paper") == (columns, rows)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20))
def test_paper_rule_above_the_limit_is_the_largest_allowed_scale(
    width: int, height: int, max_grids: int
) -> None:
    """Against a search over all scales at which a column or row appears, in exact arithmetic."""
    grid = 7

    def at(scale: Fraction) -> tuple[int, int]:
        return max(1, math.floor(width * scale / grid)), max(1, math.floor(height * scale / grid))

    if math.prod(at(Fraction(1))) > max_grids:
        scales = {Fraction(k * grid, side) for side in (width, height) for k in range(1, side + 1)}
        allowed = [scale for scale in scales if scale <= 1 and math.prod(at(scale)) <= max_grids]
        wanted = at(max(allowed))
    else:
        wanted = at(Fraction(1))
    assert grid_shape(width, height, rule="paper", grid_size=grid, max_grids=max_grids) == wanted


@given(sides, sides)
@settings(max_examples=50)
def test_released_rule_against_a_plain_search(width: int, height: int) -> None:
    """The rule as it is told: every canvas in order; more of the image wins, then less waste."""
    best, best_kept, best_wasted = (0, 0), 0, math.inf
    for columns in range(1, 50):
        for rows in range(1, 50):
            if not 2 <= columns * rows <= 49:
                continue
            canvas_width, canvas_height = columns * 336, rows * 336
            scale = min(canvas_width / width, canvas_height / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            wasted = canvas_width * canvas_height - kept
            if kept > best_kept or (kept == best_kept and wasted < best_wasted):
                best, best_kept, best_wasted = (columns, rows), kept, wasted
    assert grid_shape(width, height, rule="released") == best


@pytest.mark.parametrize("fitting", FITTINGS)
def test_cutting_keeps_pixels_and_raster_order(fitting: Fitting) -> None:
    canvas_YXC = np.random.default_rng(0).integers(0, 256, (2 * 8, 3 * 8, 3), dtype=np.uint8)
    grids_GYXC = split_image(
        Image.fromarray(canvas_YXC), rule="paper", fitting=fitting, grid_size=8
    )
    assert grids_GYXC.shape == (6, 8, 8, 3)
    for grid in range(6):
        row, column = divmod(grid, 3)
        tile = canvas_YXC[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        np.testing.assert_array_equal(grids_GYXC[grid], tile)


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(RULES),
    st.sampled_from(FITTINGS),
)
@settings(max_examples=25, deadline=None)
def test_odd_sizes_give_whole_grids(
    width: int, height: int, rule: GridRule, fitting: Fitting
) -> None:
    image = Image.new("RGB", (width, height), (250, 200, 150))
    grids_GYXC = split_image(image, rule=rule, fitting=fitting, grid_size=28)
    columns, rows = grid_shape(width, height, rule=rule, grid_size=28)
    assert grids_GYXC.shape == (columns * rows, 28, 28, 3)
    assert grids_GYXC.dtype == np.uint8
    colours = set(map(tuple, grids_GYXC.reshape(-1, 3).tolist()))
    if fitting == "letterbox_mean" and rule == "paper" and columns == rows:
        return  # a square canvas: bars and image are scaled together, which blends them
    bar = MEAN_COLOUR if fitting == "letterbox_mean" and rule == "paper" else (0, 0, 0)
    assert colours <= {(250, 200, 150), bar}
    assert fitting in LETTERBOXES or colours == {(250, 200, 150)}


@pytest.mark.parametrize("fitting", FITTINGS)
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (336, 336), (4000, 3000)])
def test_extreme_sizes(size: tuple[int, int], fitting: Fitting) -> None:
    grids_GYXC = split_image(Image.new("RGB", size, (9, 9, 9)), rule="paper", fitting=fitting)
    assert len(grids_GYXC) == math.prod(grid_shape(*size, rule="paper"))
    shown = grids_GYXC[(grids_GYXC != MEAN_COLOUR).any(-1)]
    assert shown.max() == 9


def test_exif_orientation_is_honoured() -> None:
    stored_YXC = np.zeros((8, 16, 3), dtype=np.uint8)
    stored_YXC[:, 8:] = 255  # right half white
    image = Image.fromarray(stored_YXC)
    image.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise: right becomes bottom
    grids_GYXC = split_image(image, rule="paper", fitting="squash", grid_size=8)
    assert grids_GYXC.shape == (2, 8, 8, 3)
    assert grids_GYXC[0].max() == 0
    assert grids_GYXC[1].min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (28, 28), (255, 255, 255)).convert(mode)
    grids_GYXC = split_image(image, rule="paper", fitting="squash", grid_size=28)
    assert grids_GYXC.shape == (1, 28, 28, 3)
    assert grids_GYXC.min() >= 254


def test_user_errors_say_what_was_wanted() -> None:
    with pytest.raises(ValueError, match="got 0x5"):
        grid_shape(0, 5, rule="paper")
    with pytest.raises(ValueError, match="'anyres', want 'paper' or 'released'"):
        grid_shape(5, 5, rule="anyres")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_grids=1"):
        grid_shape(5, 5, rule="released", max_grids=1)
