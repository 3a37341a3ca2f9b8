"""Writing videos: whole files or none."""

from pathlib import Path

import numpy as np
import pytest

from longva_ray.video.write import write_video

pytest.importorskip("av")


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
