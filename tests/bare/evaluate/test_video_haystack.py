"""Haystacks made from a seed: real files, the same every time, other scenes all the time."""

from pathlib import Path

import numpy as np
import pytest

from longva_ray.evaluate.video.haystack import SCENE_SECONDS, haystack_frames, write_haystack_video
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video


def test_a_frame_for_each_second(tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_haystack_video(tmp_path / "hay.mp4", seconds=70, seed=3)
    info = probe_video(tmp_path / "hay.mp4")
    assert info.num_frames == 70
    assert info.duration_s == pytest.approx(70, abs=1)
    chunks = decode_frames(info, np.arange(70), size=56, fitting="letterbox", chunk_frames=70)
    decoded_FYXC = next(iter(chunks)).frames_FYXC.astype(float)
    drawn = list(haystack_frames(70, seed=3, size=(448, 336)))
    # Mean colours survive scaling and coding, so the file shows the frames in their order.
    bars = decoded_FYXC[:, 7:49]
    wanted_FC = np.stack([frame.mean(axis=(0, 1)) for frame in drawn])
    np.testing.assert_allclose(bars.mean(axis=(1, 2)), wanted_FC, atol=12)


def test_the_seed_decides_and_scenes_change() -> None:
    first, again, other = (
        np.stack(list(haystack_frames(60, seed=seed, size=(64, 48)))) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    steps = np.abs(np.diff(first.astype(float), axis=0)).mean(axis=(1, 2, 3))
    shortest, longest = SCENE_SECONDS
    assert 60 / longest - 1 <= (steps > 15).sum() <= 60 / shortest


def test_no_length_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_haystack_video(tmp_path / "hay.mp4", seconds=0, seed=0)
