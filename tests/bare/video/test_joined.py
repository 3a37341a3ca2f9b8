"""Files joined by `cat` are refused where only the first of them would be read, and nothing of one
file is taken for another."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from counting_files import read_all
from counting_video import draw_counting_frame

from longva_ray.video.container import VideoError
from longva_ray.video.joined import find_second_file
from longva_ray.video.probe import probe_video

av = pytest.importorskip("av")

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def write(
    path: Path, first: int, codec: str = "libx264", container: dict[str, str] | None = None
) -> Path:
    """20 frames of a counting video from frame `first` on."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.bit_rate = 2_000_000
        for k in range(first, first + 20):
            picture = draw_counting_frame(k, (160, 120))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k - first, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def join(parts: list[Path], path: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "container"),
    [
        ("flv", "libx264", {}),
        ("mp4", "libx264", {}),
        ("mp4", "libx264", {"movflags": "faststart"}),
        ("mp4", "libx264", FRAGMENTS),
        ("mov", "mpeg4", {}),
        ("mkv", "libx264", {}),
        ("webm", "libvpx", {}),
        ("asf", "wmv2", {}),
    ],
)
def test_a_second_file_is_found_where_it_begins(
    tmp_path: Path, suffix: str, codec: str, container: dict[str, str]
) -> None:
    parts = [
        write(tmp_path / f"{number}.{suffix}", 20 * number, codec, container) for number in (0, 1)
    ]
    assert [probe_video(part).num_frames for part in parts] == [20, 20]
    path = join(parts, tmp_path / f"joined.{suffix}")
    start = parts[0].stat().st_size
    reason = rf"second file from byte {start} on.* ffmpeg -f concat -i LIST -c copy OUT\.mp4"
    with pytest.raises(VideoError, match=reason):
        probe_video(path)


def test_what_ffmpeg_reads_to_its_end_shows_every_frame(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{number}.avi", 20 * number, "mpeg4") for number in (0, 1)]
    shown, _ = read_all(join(parts, tmp_path / "joined.avi"), np.arange(40))
    assert shown == list(range(40))


@pytest.mark.parametrize(
    ("suffix", "codec", "after"),
    [("mpg", "mpeg2video", 20), ("mpg", "mpeg1video", 20), ("ogv", "libvpx", 21)],
)
def test_a_stream_whose_clock_starts_anew_is_refused(
    tmp_path: Path, suffix: str, codec: str, after: int
) -> None:
    """The second Ogg file begins with a packet that is no picture."""
    part = write(tmp_path / f"part.{suffix}", 0, codec)
    assert probe_video(part).num_frames == 20
    with pytest.raises(VideoError, match=f"jump back after its first {after} frames"):
        probe_video(join([part, part], tmp_path / f"joined.{suffix}"))


@pytest.mark.parametrize("container", ["flv", "mov,mp4,m4a,3gp,3g2,mj2", "asf", "avi"])
@pytest.mark.parametrize("content", [b"x", b"FLV\x01", bytes(100), b"\0\0\0\x08moov"])
def test_what_is_not_understood_is_no_second_file(
    tmp_path: Path, container: str, content: bytes
) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    assert find_second_file(path, container) is None
