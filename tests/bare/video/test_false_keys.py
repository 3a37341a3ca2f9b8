"""Files that call every frame a key frame are decoded from their beginning."""

from pathlib import Path

import numpy as np
import pytest
from counting_files import FPS, read_all
from counting_video import write_counting_video

from longva_ray.video.probe import probe_video
from longva_ray.video.sampling import Sampling

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("codec", "has_index"),
    [("h263", True), ("h263", False), ("flv", False), ("msmpeg4", False), ("wmv2", False)],
)
def test_key_frames_that_are_none(tmp_path: Path, codec: str, has_index: bool) -> None:
    """FFmpeg takes the key frames of an AVI from its index, if nothing else tells."""
    path = tmp_path / "a.avi"
    write_counting_video(path, 60, FPS, codec=codec, size=(176, 144), options={"g": "12", "q": "3"})
    if not has_index:
        content = path.read_bytes()
        path.write_bytes(content[: content.rindex(b"idx1")])
    info = probe_video(path)
    assert info.num_frames == 60
    assert info.packets.is_key_K.all()
    for indices in (
        info.sampled(Sampling.parse("1fps")),
        np.array([7, 8, 31, 59]),
        np.array([33]),
        np.arange(60),
    ):
        assert read_all(path, indices)[0] == indices.tolist()
