"""A clock that starts anew inside a file is refused; frames of two timelines are never mixed."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from counting_files import FILES, counting_file, h264
from counting_video import draw_counting_frame

from longva_ray.video.clock import Stamp, find_restart
from longva_ray.video.container import VideoError
from longva_ray.video.probe import probe_video
from longva_ray.video.write import write_video

av = pytest.importorskip("av")

TS_PACKET = 188


def write_part(path: Path, first: int, start_s: float, bframes: int) -> Path:
    """Frames `first` .. `first` + 19 of a counting video at 10 frames/s, from `start_s` on."""
    frames = [draw_counting_frame(k, (160, 120)) for k in range(first, first + 20)]
    times_s = [start_s + k / 10 for k in range(20)]
    options = h264(f"keyint=5:bframes={bframes}")
    write_video(path, frames, fps=10, options=options, timestamps_s=times_s)
    return path


def join(parts: list[Path], path: Path, *, is_continuous: bool = False) -> Path:
    """The files after one another. `is_continuous`: the packets of MPEG-TS are counted on, so that
    the join does not look like damage."""
    content = bytearray(b"".join(part.read_bytes() for part in parts))
    counters: dict[int, int] = {}
    for start in range(0, len(content) if is_continuous else 0, TS_PACKET):
        stream = int.from_bytes(content[start + 1 : start + 3], "big") & 0x1FFF
        if content[start + 3] & 0x10:  # it has a payload
            counters[stream] = (counters.get(stream, -1) + 1) % 16
        content[start + 3] = content[start + 3] & 0xF0 | counters.get(stream, 0)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("is_continuous", [False, True])
@pytest.mark.parametrize("start_s", [10.0, 11.0, 11.8, 11.9, 5.0])
def test_joined_transport_streams_are_refused(
    tmp_path: Path, start_s: float, bframes: int, is_continuous: bool
) -> None:
    """Times that repeat, overlap by some frames or by one, or lie before all of the first file."""
    parts = [
        write_part(tmp_path / "a.ts", 0, 10.0, bframes),
        write_part(tmp_path / "b.ts", 20, start_s, bframes),
    ]
    path = join(parts, tmp_path / "joined.ts", is_continuous=is_continuous)
    reason = r"jump back after its first 20 frames, as in files joined by `cat`.*-c copy OUT\.mp4"
    with pytest.raises(VideoError, match=reason) as caught:
        probe_video(path)
    assert caught.value.path == path


@pytest.mark.parametrize("bframes", [0, 2])
def test_joined_streams_with_one_clock_are_read(tmp_path: Path, bframes: int) -> None:
    parts = [
        write_part(tmp_path / "a.ts", 0, 10.0, bframes),
        write_part(tmp_path / "b.ts", 20, 12.0, bframes),
    ]
    info = probe_video(join(parts, tmp_path / "joined.ts", is_continuous=True))
    assert info.num_frames == 40
    assert info.average_fps == pytest.approx(10)


def test_damage_is_told_in_seconds_from_the_start(tmp_path: Path) -> None:
    path = write_part(tmp_path / "a.ts", 0, 3600.0, 0)
    content = path.read_bytes()
    starts = range(0, len(content), TS_PACKET)
    of_video = [
        k for k in starts if int.from_bytes(content[k + 1 : k + 3], "big") & 0x1FFF == 0x100
    ]
    lost = of_video[len(of_video) // 2]
    path.write_bytes(content[:lost] + content[lost + TS_PACKET :])
    with pytest.raises(VideoError, match=r"damaged after [01]\.\d s\. .*-c copy OUT\.mp4"):
        probe_video(path)


@pytest.mark.parametrize("name", FILES)
def test_one_timeline_is_no_restart(folder: Path, name: str) -> None:
    with av.open(str(counting_file(folder, name))) as container:
        stamps = [
            Stamp(packet.dts, packet.pts, packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.size
        ]
    assert len(stamps) >= 150
    assert find_restart(stamps) is None


def test_early_decoding_times_and_field_pairs_are_no_restart() -> None:
    rng = np.random.default_rng(3)
    pts = 10 * np.arange(50)
    jittered = [Stamp(int(t - rng.integers(0, 30)), int(t), t % 100 == 0) for t in pts]
    assert any(a.dts > b.dts for a, b in pairwise(jittered) if a.dts is not None and b.dts)
    assert find_restart(jittered) is None
    fields = [Stamp(int(t), int(t), t % 100 == 0 and field == 0) for t in pts for field in (0, 1)]
    assert find_restart(fields) is None
    assert find_restart([Stamp(None, int(t), True) for t in pts]) is None
    assert find_restart([]) is None
