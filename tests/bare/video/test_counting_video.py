"""Counting videos: a frame shows its number, or cannot be read."""

import numpy as np
import pytest
from counting_video import MAX_COUNT, draw_counting_frame, read_counting_frame
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.integers(0, MAX_COUNT - 1),
    st.sampled_from([(160, 120), (120, 160), (96, 96), (320, 180), (1280, 720)]),
)
def test_a_counting_frame_shows_its_number(k: int, size: tuple[int, int]) -> None:
    assert read_counting_frame(draw_counting_frame(k, size)) == k


def test_a_picture_without_a_clear_code_is_not_read() -> None:
    frame_YXC = draw_counting_frame(21, (160, 120))
    with pytest.raises(ValueError, match="no counting code"):
        read_counting_frame(frame_YXC // 2)
    half_YXC = (frame_YXC.astype(int) + draw_counting_frame(20, (160, 120))) // 2
    with pytest.raises(ValueError, match="gray"):
        read_counting_frame(half_YXC.astype(np.uint8))
