"""Fitting: geometry over all sizes, and pasting against the plainest loop."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longva_ray.video.fitting import (
    FITTINGS,
    LETTERBOXES,
    MEAN_COLOUR,
    Fitting,
    Placement,
    paste,
    place,
)

sides = st.integers(1, 5000)


targets = st.integers(1, 700)


def odd_sizes(test):  # type: ignore[no-untyped-def]
    for width, height in ((1, 1), (1, 4000), (336, 336), (4000, 3000), (337, 335)):
        test = example(width, height, 336, 336)(test)
    return given(sides, sides, targets, targets)(test)


@odd_sizes
def test_letterbox_shows_everything_centred(width: int, height: int, x: int, y: int) -> None:
    placed, other = (place(width, height, x, y, fitting) for fitting in LETTERBOXES)
    assert placed == other
    assert 1 <= placed.scaled_width <= x
    assert 1 <= placed.scaled_height <= y
    assert placed.scaled_width == x or placed.scaled_height == y
    assert 0 <= x - placed.scaled_width - 2 * placed.offset_x <= 1
    assert 0 <= y - placed.scaled_height - 2 * placed.offset_y <= 1


@odd_sizes
def test_center_crop_leaves_no_border_and_cuts_both_sides_alike(
    width: int, height: int, x: int, y: int
) -> None:
    placed = place(width, height, x, y, "center_crop")
    assert placed.scaled_width >= x
    assert placed.scaled_height >= y
    assert placed.scaled_width == x or placed.scaled_height == y
    assert 0 <= placed.scaled_width - x + 2 * placed.offset_x <= 1
    assert 0 <= placed.scaled_height - y + 2 * placed.offset_y <= 1


@odd_sizes
def test_shape_is_kept_to_half_a_pixel_except_when_squashed(
    width: int, height: int, x: int, y: int
) -> None:
    for fitting in ("letterbox", "center_crop"):
        placed = place(width, height, x, y, fitting)  # type: ignore[arg-type]
        exact_height = placed.scaled_width * height / width
        exact_width = placed.scaled_height * width / height
        # One side is the canvas' own, the other one follows from it (or is the least there is).
        assert (
            abs(placed.scaled_height - exact_height) <= 0.5
            or abs(placed.scaled_width - exact_width) <= 0.5
            or min(placed.scaled_width, placed.scaled_height) == 1
        )
    assert place(width, height, x, y, "squash") == Placement(
        scaled_width=x, scaled_height=y, offset_x=0, offset_y=0
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.sampled_from(FITTINGS))
def test_paste_equals_a_loop_over_pixels(
    width: int, height: int, size: int, fitting: Fitting
) -> None:
    placed = place(width, height, size, size, fitting)
    rng = np.random.default_rng(width * 61 + height)
    shape = (2, placed.scaled_height, placed.scaled_width, 3)
    scaled_FYXC = rng.integers(1, 256, shape, dtype=np.uint8)
    expected_FYXC = np.zeros((2, size, size, 3), dtype=np.uint8)
    expected_FYXC[:] = MEAN_COLOUR if fitting == "letterbox_mean" else 0
    for y in range(size):
        for x in range(size):
            from_y, from_x = y - placed.offset_y, x - placed.offset_x
            if 0 <= from_y < placed.scaled_height and 0 <= from_x < placed.scaled_width:
                expected_FYXC[:, y, x] = scaled_FYXC[:, from_y, from_x]
    np.testing.assert_array_equal(paste(scaled_FYXC, placed, size, size, fitting), expected_FYXC)


@pytest.mark.parametrize("fitting", FITTINGS)
def test_paste_does_not_copy_what_fits_already(fitting: Fitting) -> None:
    frames_FYXC = np.ones((3, 8, 8, 3), dtype=np.uint8)
    assert paste(frames_FYXC, place(20, 20, 8, 8, fitting), 8, 8, fitting) is frames_FYXC


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="0x5 picture"):
        place(0, 5, 336, 336, "letterbox")
    with pytest.raises(ValueError, match="'stretch'"):
        place(5, 5, 336, 336, "stretch")  # type: ignore[arg-type]
