"""A damaged file is an error that says where, and never other frames than those asked for."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_files import FPS, counting_file, read_all
from counting_video import read_counting_frame

from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video
from longva_ray.video.pyav_frames import pyav_frames

av = pytest.importorskip("av")


def packet_bytes(path: Path) -> list[tuple[int, int]]:
    """Where in the file the packets lie: (position, size) in decoding order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(packet.pos, packet.size) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("damage", ["zeros", "noise", "lost", "key frame"])
def test_a_file_that_breaks_in_the_middle_says_where(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    source = counting_file(folder, "short_groups.mp4")  # a key frame every 12 frames
    content = bytearray(source.read_bytes())
    packets = packet_bytes(source)
    # In decoding order; group 6 holds frames 72..83.
    for position, size in packets[72:73] if damage == "key frame" else packets[73:79]:
        if damage == "lost":
            content[position + 4] = (
                content[position + 4] & 0xE0 | 12
            )  # the decoder skips filler data
        elif damage == "noise":
            content[position : position + size] = np.random.default_rng(0).bytes(size)
        else:
            content[position : position + size] = bytes(size)
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    seen: list[int] = []
    chunks = decode_frames(path, np.arange(0, 150, 2), size=96, fitting="letterbox", chunk_frames=9)
    with pytest.raises(VideoError, match=r"breaks at frame (7\d|8[0-3]) of 150") as caught:
        seen.extend(read_counting_frame(frame) for chunk in chunks for frame in chunk.frames_FYXC)
    assert caught.value.path == path
    # Whole chunks that came out are right; pictures still inside the decoder are lost with the
    # rest.
    assert seen == list(range(0, 2 * len(seen), 2))
    assert len(seen) in (27, 36)
    # The groups before and after are whole, and can be had.
    indices = np.concatenate([np.arange(60, 72), np.arange(84, 100)])
    assert read_all(path, indices)[0] == indices.tolist()


@pytest.mark.parametrize("name", ["matroska.mkv", "short_groups.mp4"])
def test_random_damage_never_passes_for_another_frame(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Damage is an error, or hits what the chosen frames do not need, or smears a picture."""
    content = counting_file(folder, name).read_bytes()
    path = tmp_path / f"damaged_{name}"
    rng = np.random.default_rng(11)
    failed = 0
    for _ in range(40):
        start = int(rng.integers(1000, len(content) - 200))
        path.write_bytes(content[:start] + rng.bytes(100) + content[start + 100 :])
        wrong, reason = wrong_frames(path)
        assert wrong == []
        failed += reason is not None
    assert failed > 20


def wrong_frames(path: Path) -> tuple[list[int], str | None]:
    """(frames that clearly show another number than their time asks for, why decoding failed)."""
    wrong = []
    try:
        info = probe_video(path)
        indices = np.arange(0, info.num_frames, 10)
        for chunk in decode_frames(info, indices, size=96, fitting="letterbox", chunk_frames=4):
            for frame_YXC, time_s in zip(chunk.frames_FYXC, chunk.timestamp_s_F, strict=True):
                try:
                    number = read_counting_frame(frame_YXC)
                except ValueError:
                    continue  # smeared beyond reading, which no decoder has to notice
                if number != round(time_s * FPS):
                    wrong.append(number)
    except VideoError as error:
        return wrong, error.reason
    return wrong, None


def test_a_decoder_that_gives_too_few_frames_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(*arguments: Any, **options: Any) -> Iterator[np.ndarray]:
        yield from islice(pyav_frames(*arguments, **options), 5)

    monkeypatch.setattr("longva_ray.video.decode.pyav_frames", few)
    with pytest.raises(VideoError, match=r"matroska\.mkv: its decoder gave 5 of 9 frames"):
        read_all(counting_file(folder, "matroska.mkv"), np.arange(9))


def test_a_file_exchanged_after_probing_is_noticed(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "exchanged.mp4"
    path.write_bytes(counting_file(folder, "short_groups.mp4").read_bytes())
    info = probe_video(path)
    path.write_bytes(counting_file(folder, "b_pyramid.mp4").read_bytes())
    with pytest.raises(VideoError, match="changed since it was probed"):
        list(decode_frames(info, np.arange(150), size=32, fitting="squash", chunk_frames=16))
