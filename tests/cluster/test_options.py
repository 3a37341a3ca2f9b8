"""Which files of a folder are videos."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from longva_ray.files.videos import VIDEO_SUFFIXES, find_videos
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video

CODECS = {
    ".avi": "mpeg4",
    ".webm": "libvpx",
    ".ogv": "libvpx",  # PyAV brings no Theora encoder
    ".wmv": "wmv2",
    ".asf": "wmv2",
    ".mpg": "mpeg2video",
    ".mpeg": "mpeg2video",
}
"""H.264 for all others."""


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_suffix_of_a_video_can_be_decoded(tmp_path: Path, suffix: str) -> None:
    """Frame k is a grey of 20 k."""
    path = tmp_path / f"video{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS.get(suffix, "libx264"), rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(12):
            frame_YXC = np.full((64, 96, 3), 20 * k, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(frame_YXC, format="rgb24")
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert find_videos([str(tmp_path)]) == [str(path)]
    info = probe_video(path)
    chunks = decode_frames(info, np.arange(12), size=32, fitting="squash", chunk_frames=12)
    grey_F = next(chunks).frames_FYXC.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(grey_F, 20 * np.arange(12), atol=9)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_a_folder_does_not_give_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    place = f"{scheme}{tmp_path}"
    (tmp_path / "a.mp4").touch()
    assert find_videos([place]) == [f"{place}/a.mp4"]
    assert caplog.records == []
    for name in ("notes.txt", "a.srt"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    assert find_videos([place]) == [f"{place}/a.mp4"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 video(s); 2 other file(s) and 1 folder(s) are left out" in record.getMessage()
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(
        ValueError, match=r"no videos \(.*\.ts.* but 2 other file\(s\) and 1 folder"
    ):
        find_videos([place])
