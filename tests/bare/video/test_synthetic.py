"""Synthetic videos: what they show is what they say they show."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from counting_video import MAX_COUNT, draw_counting_frame, read_counting_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import plan_scenes, write_scene_video

from longva_ray.evaluate.video.needles import COLORS
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video
from longva_ray.video.write import write_video


@settings(deadline=None)
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


def test_scenes_fill_the_time_and_differ() -> None:
    scenes = plan_scenes(300, scenes=40, seed=3)
    assert scenes == plan_scenes(300, scenes=40, seed=3)
    assert scenes != plan_scenes(300, scenes=40, seed=4)
    assert scenes[0].start_s == 0
    assert scenes[-1].end_s == 300
    assert all(a.end_s == b.start_s for a, b in pairwise(scenes))
    assert all(a.color != b.color for a, b in pairwise(scenes))
    assert len({scene.number for scene in scenes}) == 40
    assert {scene.color for scene in scenes} == set(COLORS)
    with pytest.raises(ValueError, match="0 scenes"):
        plan_scenes(10, scenes=0)


def test_scene_video_shows_what_its_scenes_say(tmp_path: Path) -> None:
    path = tmp_path / "scenes.mp4"
    scenes = write_scene_video(path, seconds=12, scenes=6, fps=10, size=(320, 180), seed=1)
    info = probe_video(path)
    assert (info.num_frames, info.width, info.height) == (120, 320, 180)
    assert list(tmp_path.iterdir()) == [path]
    frames = decode_frames(info, np.arange(120), size=64, fitting="squash", chunk_frames=120)
    frames_FYXC = next(frames).frames_FYXC.astype(int)
    for scene in scenes:
        inside_FYXC = frames_FYXC[round(scene.start_s * 10) : round(scene.end_s * 10)]
        # The corner at the top left is bare background; the number is white in the middle of the
        # upper part; the shape moves in the lowest fifth.
        assert np.abs(inside_FYXC[:, 1, 1] - COLORS[scene.color]).max() < 12
        assert (inside_FYXC[:, 8:42].min(axis=-1) > 200).any(axis=(1, 2)).all()
        assert np.abs(np.diff(inside_FYXC[:, -10:], axis=0)).max(axis=(1, 2, 3)).min() > 50


def test_a_video_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    even = np.zeros((48, 64, 3), dtype=np.uint8)
    path = tmp_path / "x.mp4"
    path.write_bytes(b"what was there")
    for frames, message in (
        ([], "no frame"),
        ([even[1:]], "64x47"),
        ([even, even[2:]], r"\(46, 64, 3\) after"),
    ):
        with pytest.raises(ValueError, match=message):
            write_video(path, frames, fps=10)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        write_video(path, [even, even], fps=10, timestamps_s=[0.0])
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"what was there"
