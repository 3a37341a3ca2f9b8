"""The frames that come out are the frames asked for, at their times, and memory stays small."""

import logging
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_files import DECODERS, FILES, FPS, NUM_FRAMES, counting_file, h264, read_all
from counting_video import read_counting_frame, write_counting_video

from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import DecoderName, probe_video
from longva_ray.video.sampling import Sampling

pytest.importorskip("av")


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
        info.sampled(Sampling.parse(text))
        for text in ("1fps", "1fps-by-count", "uniform:17", "every")
    ]
    requests += [np.arange(97, 140, 5), np.array([149]), np.array([0, 1, 60, 61, 148])]
    for indices in requests:
        shown, times = read_all(path, indices, decoder)
        assert shown == indices.tolist()
        np.testing.assert_allclose(times, indices / FPS, atol=1e-3)


@pytest.mark.parametrize("name", ["varying.mp4", "varying.mkv"])
def test_a_varying_rate_is_sampled_by_time(tmp_path: Path, name: str) -> None:
    """30 frames in 3 seconds, then one every 4 seconds."""
    times = np.concatenate([np.arange(30) / 10, 3 + 4 * np.arange(5)])
    write_counting_video(tmp_path / name, len(times), 10, timestamps_s=times)
    indices = probe_video(tmp_path / name).sampled(Sampling.parse("0.5fps"))
    shown, seconds = read_all(tmp_path / name, indices)
    assert shown == indices.tolist() == [0, 20, 30, 31, 32, 33]
    np.testing.assert_allclose(seconds, times[indices], atol=2e-3)


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


def test_wrong_requests_are_refused_at_the_call(folder: Path) -> None:
    path = counting_file(folder, "matroska.mkv")
    for indices, options, message in (
        ([3, 3], {}, "strictly increasing"),
        ([5, 2], {}, "strictly increasing"),
        ([-1, 2], {}, r"frames -1\.\.2 of a video that has frames 0\.\.149"),
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


PEAK_MEMORY = """
import resource, sys
import numpy as np
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video
info = probe_video(sys.argv[1], decoder=sys.argv[2])
count = 0
indices = np.arange(info.num_frames)
for chunk in decode_frames(info, indices, size=128, fitting="letterbox", chunk_frames=16):
    count += len(chunk.frames_FYXC)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Videos of 200 and of 2000 frames; all frames of the longer one would take 94 MiB."""
    root = tmp_path_factory.mktemp("lengths")
    videos = {num_frames: root / f"{num_frames}.mp4" for num_frames in (200, 2000)}
    for num_frames, path in videos.items():
        write_counting_video(path, num_frames, 25)
    return videos


@pytest.mark.parametrize("decoder", DECODERS)
def test_memory_does_not_grow_with_the_length(
    lengths: dict[int, Path], decoder: DecoderName
) -> None:
    peaks_mib = []
    for num_frames, path in lengths.items():
        command = [sys.executable, "-c", PEAK_MEMORY, str(path), decoder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, peak_mib = map(int, done.stdout.split())
        assert count == num_frames
        peaks_mib.append(peak_mib)
    assert peaks_mib[1] - peaks_mib[0] < 20
