"""Decoding: the frames that come out are the frames asked for, upright, in place, at their
times."""

import logging
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from counting_video import read_counting_frame, write_counting_video
from PIL import Image

from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames
from longva_ray.video.fitting import Fitting
from longva_ray.video.probe import DecoderName, probe_video
from longva_ray.video.pyav_frames import pyav_frames
from longva_ray.video.sampling import Sampling
from longva_ray.video.write import write_video

DECODERS: tuple[DecoderName, ...] = ("pyav", "decord")


NUM_FRAMES, FPS = 150, 10


def h264(x264: str) -> dict[str, str]:
    return {"preset": "veryfast", "crf": "26", "x264-params": f"scenecut=0:{x264}"}


FILES: dict[str, dict[str, Any]] = {
    "all_keys.mp4": {"options": h264("keyint=1")},
    "short_groups.mp4": {"options": h264("keyint=12:bframes=2")},
    "one_group.mp4": {"options": h264("keyint=1000:bframes=0")},
    "b_pyramid.mp4": {"options": h264("keyint=50:bframes=5:b-pyramid=normal:ref=4")},
    "open_groups.mp4": {"options": h264("keyint=20:bframes=3:open-gop=1")},
    "matroska.mkv": {"options": h264("keyint=40:bframes=3")},
    "quicktime.mov": {"options": h264("keyint=40:bframes=3")},
    "broadcast.ts": {"options": h264("keyint=40:bframes=3")},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "auto-alt-ref": "1"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "log-level=0"},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decode")


def counting_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        write_counting_video(path, NUM_FRAMES, FPS, **FILES[name])
    return path


def read_all(
    path: Path, indices: np.ndarray, decoder: DecoderName = "pyav", **options: Any
) -> tuple[list[int], np.ndarray]:
    """Numbers shown by the frames asked for, and their times."""
    info = probe_video(path, decoder=decoder)
    arguments = {"size": 96, "fitting": "letterbox", "chunk_frames": 16} | options
    chunks = list(decode_frames(info, indices, **arguments))
    assert [len(chunk.frame_index_F) for chunk in chunks[:-1]] == [16] * (len(chunks) - 1)
    assert np.concatenate([chunk.frame_index_F for chunk in chunks]).tolist() == indices.tolist()
    shown = [read_counting_frame(frame) for chunk in chunks for frame in chunk.frames_FYXC]
    return shown, np.concatenate([chunk.timestamp_s_F for chunk in chunks])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", FILES)
def test_frames_and_times_are_those_asked_for(
    folder: Path, name: str, decoder: DecoderName
) -> None:
    path = counting_file(folder, name)
    info = probe_video(path)
    assert info.num_frames == NUM_FRAMES
    assert info.average_fps == pytest.approx(FPS, rel=1e-3)
    requests = [
        Sampling.parse(text).indices(info.num_frames, info.average_fps)
        for text in ("1fps", "uniform:17", "every")
    ]
    requests += [np.arange(97, 140, 5), np.array([149]), np.array([0, 1, 60, 61, 148])]
    for indices in requests:
        shown, times = read_all(path, indices, decoder)
        assert shown == indices.tolist()
        np.testing.assert_allclose(times, indices / FPS, atol=1e-3)


@pytest.mark.parametrize("bframes", [0, 3])
def test_key_frames_that_only_become_whole_later(tmp_path: Path, bframes: int) -> None:
    """Intra refresh: no picture can be decoded from the key frame that the file names."""
    path = tmp_path / "refresh.mp4"
    options = h264(f"intra-refresh=1:keyint=20:bframes={bframes}")
    write_counting_video(path, NUM_FRAMES, FPS, options=options)
    for indices in (np.arange(0, NUM_FRAMES, 37), np.arange(75, 130, 11), np.array([23])):
        assert read_all(path, indices)[0] == indices.tolist()


def test_more_threads_give_the_same_frames(folder: Path) -> None:
    path = counting_file(folder, "b_pyramid.mp4")
    indices = np.arange(3, NUM_FRAMES, 7)
    assert read_all(path, indices, num_threads=2)[0] == indices.tolist()


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_camera_clips_look_like_a_plain_decoder_makes_them(real_clip: Path, name: str) -> None:
    path = real_clip.with_name(name)
    indices = np.array([0, 9, 33, 60, 99, 118])
    with av.open(str(path)) as container:
        plain = [
            frame.to_image().resize((112, 112), Image.Resampling.BICUBIC)
            for index, frame in enumerate(container.decode(video=0))
            if index in indices
        ]
    plain_FYXC = np.stack([np.asarray(image, dtype=float) for image in plain])
    for decoder in DECODERS:
        info = probe_video(path, decoder=decoder)
        chunk = next(decode_frames(info, indices, size=112, fitting="squash", chunk_frames=6))
        for f, frame_YXC in enumerate(chunk.frames_FYXC):
            error_F = np.abs(plain_FYXC - frame_YXC).mean(axis=(1, 2, 3))
            assert error_F.argmin() == f
            assert error_F[f] < 5


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_its_times(
    tmp_path: Path, suffix: str, decoder: DecoderName
) -> None:
    gaps_s = np.random.default_rng(5).uniform(0.02, 0.4, 79).round(3)
    times_s = np.concatenate([[0.0], np.cumsum(gaps_s)])
    path = tmp_path / f"vfr.{suffix}"
    write_counting_video(path, 80, 10, timestamps_s=times_s)
    indices = np.arange(1, 80, 3)
    shown, read_s = read_all(path, indices, decoder)
    assert shown == indices.tolist()
    np.testing.assert_allclose(read_s, times_s[indices], atol=1.1e-3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_puts_the_picture_upright(
    tmp_path: Path, rotation: int, decoder: DecoderName
) -> None:
    stored_YXC = np.zeros((64, 128, 3), dtype=np.uint8)
    stored_YXC[:32, :64], stored_YXC[:32, 64:] = (220, 20, 20), (20, 220, 20)
    stored_YXC[32:, :64], stored_YXC[32:, 64:] = (20, 20, 220), (220, 220, 220)
    path = tmp_path / "turned.mp4"
    write_video(path, [stored_YXC] * 10, fps=10, rotation=rotation)
    info = probe_video(path, decoder=decoder)
    upright_YXC = np.rot90(stored_YXC, k=-rotation // 90).astype(int)
    assert info.rotation == rotation
    assert (info.height, info.width) == upright_YXC.shape[:2]
    fittings: tuple[Fitting, ...] = ("squash", "letterbox")
    for fitting in fittings:
        chunks = decode_frames(info, np.array([4]), size=32, fitting=fitting, chunk_frames=1)
        chunk = next(chunks)
        frame_YXC = chunk.frames_FYXC[0].astype(int)
        for y in (12, 19):
            for x in (12, 19):
                wanted = upright_YXC[upright_YXC.shape[0] * y // 32, upright_YXC.shape[1] * x // 32]
                assert np.abs(frame_YXC[y, x] - wanted).max() < 25, (fitting, y, x)


@pytest.mark.parametrize("decoder", DECODERS)
def test_fittings_show_what_they_promise(tmp_path: Path, decoder: DecoderName) -> None:
    """A 160x80 picture, red | green | blue at a quarter and three quarters, on 64x64."""
    red, green, blue, black = (220, 20, 20), (20, 220, 20), (20, 20, 220), (0, 0, 0)
    picture_YXC = np.empty((80, 160, 3), dtype=np.uint8)
    picture_YXC[:, :40], picture_YXC[:, 40:120], picture_YXC[:, 120:] = red, green, blue
    path = tmp_path / "bands.mp4"
    write_video(path, [picture_YXC] * 5, fps=10)
    expected: dict[Fitting, dict[tuple[int, int], tuple[int, int, int]]] = {
        "letterbox": {
            (2, 32): black,
            (61, 32): black,
            (32, 4): red,
            (32, 32): green,
            (32, 60): blue,
        },
        "center_crop": {(2, 3): green, (61, 60): green, (32, 32): green},
        "squash": {(2, 4): red, (61, 32): green, (32, 60): blue},
    }
    for fitting, colors in expected.items():
        chunks = decode_frames(
            probe_video(path, decoder=decoder),
            np.array([3]),
            size=64,
            fitting=fitting,
            chunk_frames=8,
        )
        frame_YXC = next(chunks).frames_FYXC[0]
        for (y, x), color in colors.items():
            assert np.abs(frame_YXC[y, x].astype(int) - color).max() < 25, (fitting, y, x)


def test_a_thread_thin_picture_does_not_exhaust_memory(tmp_path: Path) -> None:
    path = tmp_path / "thin.mp4"
    write_video(path, [np.full((8, 4096, 3), 200, dtype=np.uint8)] * 3, fps=10)
    request: dict[str, Any] = {"size": 448, "chunk_frames": 1}
    chunk = next(decode_frames(path, np.array([0]), fitting="letterbox", **request))
    assert chunk.frames_FYXC.shape == (1, 448, 448, 3)
    with pytest.raises(VideoError, match="too long and thin for center_crop"):
        decode_frames(path, np.array([0]), fitting="center_crop", **request)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_trimmed_file_begins_where_a_player_begins(
    folder: Path, tmp_path: Path, decoder: DecoderName
) -> None:
    """An edit list hides the first 30 and the last 40 frames without removing them."""
    content = bytearray(counting_file(folder, "short_groups.mp4").read_bytes())
    entry = content.index(b"elst") + 12
    ticks_per_frame = 90_000 // FPS
    duration_ms, begin = struct.unpack_from(">Ii", content, entry)
    struct.pack_into(">Ii", content, entry, duration_ms - 7000, begin + 30 * ticks_per_frame)
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(content)
    info = probe_video(path, decoder=decoder)
    # The frame at the very end is shown for no time at all; whether it counts is FFmpeg's choice.
    assert info.num_frames in (80, 81)
    shown, times = read_all(path, np.arange(0, 80, 9), decoder)
    assert shown == list(range(30, 110, 9))
    np.testing.assert_allclose(times, np.arange(0, 80, 9) / FPS, atol=1e-6)


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


def test_decord_hands_over_to_pyav_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="longva_ray.video.decord_frames")
    read_all(counting_file(folder, "matroska.mkv"), np.arange(5), "decord")
    assert "decoded by decord" in caplog.text
    caplog.clear()
    read_all(counting_file(folder, "broadcast.ts"), np.arange(5), "decord")
    assert "decoded by PyAV: decord's counting is not trusted with this mpegts" in caplog.text
    caplog.clear()
    monkeypatch.setitem(sys.modules, "decord", None)
    read_all(counting_file(folder, "matroska.mkv"), np.arange(5), "decord")
    assert "decoded by PyAV: decord is not installed" in caplog.text


def test_a_decoder_that_gives_too_few_frames_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(*arguments: Any, **options: Any) -> Iterator[np.ndarray]:
        yield from islice(pyav_frames(*arguments, **options), 5)

    monkeypatch.setattr("longva_ray.video.decode.pyav_frames", few)
    with pytest.raises(VideoError, match=r"matroska\.mkv: its decoder gave 5 of 9 frames"):
        read_all(counting_file(folder, "matroska.mkv"), np.arange(9))


def test_wrong_requests_are_refused_at_the_call(folder: Path) -> None:
    path = counting_file(folder, "matroska.mkv")
    for indices, options, message in (
        ([3, 3], {}, "strictly increasing"),
        ([5, 2], {}, "strictly increasing"),
        ([-1, 2], {}, r"frames -1\.\.2 asked of a video that has frames 0\.\.149"),
        ([10, 150], {}, r"10\.\.150"),
        ([1], {"size": 0}, "size=0"),
        ([1], {"chunk_frames": 0}, "chunk_frames=0"),
        ([1], {"fitting": "stretch"}, "'stretch'"),
    ):
        request: dict[str, Any] = {"size": 32, "fitting": "squash", "chunk_frames": 4} | options
        with pytest.raises(ValueError, match=message):
            decode_frames(path, np.array(indices), **request)


def test_no_frames_asked_for_is_no_frames(folder: Path) -> None:
    path = counting_file(folder, "matroska.mkv")
    nothing = np.array([], dtype=np.int64)
    assert list(decode_frames(path, nothing, size=32, fitting="squash", chunk_frames=4)) == []


def test_a_probed_video_can_be_decoded_in_another_process(folder: Path) -> None:
    info = pickle.loads(pickle.dumps(probe_video(counting_file(folder, "matroska.mkv"))))
    chunk = next(
        decode_frames(info, np.array([42]), size=96, fitting="center_crop", chunk_frames=4)
    )
    assert read_counting_frame(chunk.frames_FYXC[0]) == 42


def test_a_file_exchanged_after_probing_is_noticed(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "exchanged.mp4"
    path.write_bytes(counting_file(folder, "short_groups.mp4").read_bytes())
    info = probe_video(path)
    path.write_bytes(counting_file(folder, "b_pyramid.mp4").read_bytes())
    with pytest.raises(VideoError, match="changed since it was probed"):
        list(decode_frames(info, np.arange(150), size=32, fitting="squash", chunk_frames=16))


PEAK_MEMORY = """
import resource, sys
import numpy as np
from longva_ray.video.decode import decode_frames, probe_video
info = probe_video(sys.argv[1], decoder=sys.argv[2])
count = 0
indices = np.arange(info.num_frames)
for chunk in decode_frames(info, indices, size=128, fitting="letterbox", chunk_frames=16):
    count += len(chunk.frames_FYXC)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_does_not_grow_with_the_length(tmp_path: Path, decoder: DecoderName) -> None:
    peaks_mib = []
    for num_frames in (200, 2000):  # all frames of the longer one would take 94 MiB
        path = tmp_path / f"{num_frames}.mp4"
        write_counting_video(path, num_frames, 25)
        command = [sys.executable, "-c", PEAK_MEMORY, str(path), decoder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, peak_mib = map(int, done.stdout.split())
        assert count == num_frames
        peaks_mib.append(peak_mib)
    assert peaks_mib[1] - peaks_mib[0] < 20
