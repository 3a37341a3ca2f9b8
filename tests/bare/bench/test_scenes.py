"""The benches' videos show what they say they show."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scenes import plan_scenes, write_scene_video

from longva_ray.evaluate.video.needles import COLORS
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video


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
    pytest.importorskip("av")
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
