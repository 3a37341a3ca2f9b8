"""Files that only say when each picture is decoded: the frames are those asked for, or the command
that repairs the file is named."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_files import h264, read_all
from counting_video import draw_counting_frame

from longva_ray.video import packets
from longva_ray.video.container import VideoError
from longva_ray.video.display_order import is_packed
from longva_ray.video.probe import probe_video

av = pytest.importorskip("av")

NUM_FRAMES, FPS = 100, 25

PICTURE = b"\0\0\1\xb6"
"""Begins a picture of MPEG-4; its type is in the next two bits: 0 is I, 1 P, 2 B."""

HEVC = {"preset": "ultrafast", "x265-params": "log-level=0:bframes=3:keyint=20"}


def write(path: Path, codec: str, options: dict[str, str], bframes: int = 0) -> Path:
    """A counting video in the encoder's own ticks, one a frame, which old containers want."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        if codec.startswith("mpeg"):
            stream.codec_context.max_b_frames = bframes
            stream.codec_context.bit_rate = 2_000_000
        for k in range(NUM_FRAMES):
            picture = draw_counting_frame(k, (160, 120))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy(source: Path, path: Path, *, bitstream_filter: str | None = None) -> Path:
    """As `ffmpeg -c copy`. Without a filter the packets get one time each, that of decoding."""
    from av.bitstream import BitStreamFilterContext

    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        if bitstream_filter:
            unpack = BitStreamFilterContext(bitstream_filter, old.streams.video[0], stream)
        contents = [packet for packet in old.demux(video=0) if packet.size]
        for number, packet in enumerate(contents):
            if not bitstream_filter:
                packet.pts = packet.dts = number
                packet.time_base = Fraction(1, FPS)
            for each in unpack.filter(packet) if bitstream_filter else [packet]:
                each.stream = stream
                new.mux(each)
    return path


def check(path: Path) -> None:
    """All frames, some from the middle, and single ones, each after a seek."""
    every = np.arange(NUM_FRAMES)
    assert probe_video(path).num_frames == NUM_FRAMES
    for indices in (every, every[::25], every[1:4], every[45:63], every[[7]], every[[99]]):
        shown, times = read_all(path, indices)
        assert shown == indices.tolist()
        # The delay of decoding may remain.
        assert np.ptp(times - indices / FPS) < 2e-3


@pytest.mark.parametrize("suffix", ["avi", "asf"])
@pytest.mark.parametrize(
    "x264",
    [
        "keyint=1000:bframes=2",
        "keyint=20:bframes=3:b-pyramid=normal",
        "keyint=20:bframes=3:open-gop=1",
        "keyint=7:bframes=5",
    ],
)
def test_reordered_pictures_in_containers_of_decoding_times(
    tmp_path: Path, suffix: str, x264: str
) -> None:
    check(write(tmp_path / f"a.{suffix}", "libx264", h264(x264)))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", h264("keyint=20:bframes=3")), ("libx265", HEVC)]
)
def test_decoding_times_copied_into_other_containers(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str]
) -> None:
    source = write(tmp_path / "source.mp4", codec, options)
    check(copy(source, tmp_path / f"a.{suffix}"))


@pytest.mark.parametrize(
    ("name", "codec", "bframes"),
    [
        ("a.avi", "libx264", 0),
        ("a.avi", "mpeg4", 0),
        ("a.avi", "mpeg4", 2),
        ("a.avi", "mpeg2video", 2),
        ("a.mpg", "mpeg2video", 2),
        ("a.mpg", "mpeg1video", 2),
        ("a.vob", "mpeg2video", 0),
        ("a.asf", "wmv2", 0),
    ],
)
def test_what_was_right_stays_right(tmp_path: Path, name: str, codec: str, bframes: int) -> None:
    options = h264("keyint=20:bframes=0") if codec == "libx264" else {"g": "20"}
    path = write(tmp_path / name, codec, options, bframes)
    table = probe_video(path).packets
    assert np.array_equal(table.pts_K, table.stored_pts_K)
    shown, _ = read_all(path, np.arange(0, NUM_FRAMES, 7))
    assert shown == list(range(0, NUM_FRAMES, 7))


def test_an_order_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets, "display_times", lambda path, stamps: None)
    path = write(tmp_path / "a.avi", "libx264", h264("keyint=20:bframes=3"))
    with pytest.raises(VideoError, match=r"when its pictures are shown.* ffmpeg -i IN OUT\.mp4"):
        probe_video(path)
    path = write(tmp_path / "b.avi", "libx264", h264("keyint=20:bframes=0"))
    assert probe_video(path).num_frames == NUM_FRAMES


def picture_type(content: bytes) -> int:
    return content[content.index(PICTURE) + len(PICTURE)] >> 6


def pack(source: Path, path: Path) -> Path:
    """As DivX and XviD do: the first B-frame goes into the packet of the picture that is decoded
    before it, and an empty picture follows the last one."""
    empty = PICTURE + b"\x50\x00"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        contents = [bytes(packet) for packet in old.demux(template) if packet.size]
        contents[0] = contents[0].replace(PICTURE, b"\0\0\1\xb2DivX503b1393p" + PICTURE, 1)
        is_b = [picture_type(content) == 2 for content in contents] + [False]
        packed: list[bytes] = []
        for k, content in enumerate(contents):
            if is_b[k] and not is_b[k - 1]:
                packed[-1] += content
            else:
                packed.append(content)
            if is_b[k] and not is_b[k + 1]:
                packed.append(empty)
        for k, content in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, template.time_base
            packet.pts = packet.dts = k
            packet.is_keyframe = picture_type(content) == 0
            new.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_packed_pictures_are_refused_with_the_command_that_unpacks_them(
    tmp_path: Path, suffix: str
) -> None:
    source = write(tmp_path / "source.avi", "mpeg4", {"g": "20"}, bframes=2)
    path = pack(source, tmp_path / f"packed.{suffix}")
    command = r"ffmpeg -i IN -c copy -bsf:v mpeg4_unpack_bframes OUT\.avi"
    with pytest.raises(VideoError, match=command):
        probe_video(path)
    if suffix == "avi":
        check(copy(path, tmp_path / "unpacked.avi", bitstream_filter="mpeg4_unpack_bframes"))


def test_an_empty_picture_after_another_is_not_packed() -> None:
    def picture(kind: int) -> bytes:
        return PICTURE + bytes([kind << 6 | 5]) + b"data"

    packed: list[tuple[Any, bool]] = [
        (picture(1) + picture(2), True),
        (picture(0) + picture(2), True),
        (picture(1) + picture(1), False),
        (picture(2), False),
        (b"", False),
        (PICTURE, False),
    ]
    assert [is_packed(content) for content, _ in packed] == [wanted for _, wanted in packed]
