"""Haystacks and needles as files: what a decoder finds in them is what was promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longva_ray.tiny.drawing import draw
from longva_ray.tiny.videos import NEEDLES_FILE, plan_haystack, write_haystack, write_needles
from longva_ray.tiny.world import COLOURS, Scene
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video


def test_a_haystack_shows_a_scene_a_second(tmp_path: Path) -> None:
    path = tmp_path / "haystack.mp4"
    scenes = write_haystack(path, seconds=12, seed=3, size=112)
    info = probe_video(path)
    assert (info.num_frames, info.width, info.height) == (12, 112, 112)
    chunk = next(decode_frames(info, np.arange(12), size=112, fitting="letterbox", chunk_frames=12))
    np.testing.assert_allclose(chunk.timestamp_s_F, np.arange(12))
    rng = np.random.default_rng(3)
    for scene, frame_YXC in zip(scenes, chunk.frames_FYXC, strict=True):
        drawn_YXC = draw(scene, 112, rng).astype(float)
        # Lossy coding; a frame of another scene differs by more than 20.
        assert np.abs(drawn_YXC - frame_YXC).mean() < 8


def test_a_haystack_shows_only_shapes_in_all_colours() -> None:
    scenes = plan_haystack(300, seed=0)
    assert {scene.kind for scene in scenes} == {"shape"}
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert plan_haystack(20, seed=0) == scenes[:20]
    assert plan_haystack(20, seed=1) != scenes[:20]


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a.mp4", 1), ("b.mp4", 1), ("c.mp4", 2)):
        write_haystack(tmp_path / name, seconds=3, seed=seed, size=56)
    first, second, other = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_needles_are_images_with_questions_that_only_they_answer(tmp_path: Path) -> None:
    scenes = write_needles(tmp_path, count=24, seed=5, size=64)
    entries = json.loads((tmp_path / NEEDLES_FILE).read_text())
    assert len(entries) == len(scenes) == 24
    assert len({scene.thing for scene in scenes[:22]}) == 22
    for scene, entry in zip(scenes, entries, strict=True):
        assert scene.kind in ("letter", "digit")
        assert Image.open(tmp_path / entry["image"]).size == (64, 64)
        assert entry["question"] == f"what colour is the {scene.thing}?"
        assert entry["answer"] == f"the {scene.thing} {scene.colour}."
    colours = {scene.colour for scene in scenes}
    assert len(colours) > 4


def test_hidden_scenes_are_shown_in_their_seconds(tmp_path: Path) -> None:
    needle = Scene("red", "K")
    plan = plan_haystack(5, seed=3)
    shown = write_haystack(tmp_path / "h.mp4", seconds=5, seed=3, size=64, hidden={2: needle})
    assert shown == [*plan[:2], needle, *plan[3:]]


def test_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_haystack(tmp_path / "none.mp4", seconds=0, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        write_needles(tmp_path, count=0, seed=0)
    assert not list(tmp_path.iterdir())
