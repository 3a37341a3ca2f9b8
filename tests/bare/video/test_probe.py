"""Probing: what is said about good files, and one clear error for every kind of bad one."""

import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from counting_files import h264
from counting_video import write_counting_video

from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames
from longva_ray.video.orientation import Orientation
from longva_ray.video.probe import probe_video

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames at 25 frames/s, 160x120."""
    path = tmp_path_factory.mktemp("probe") / "clip.mp4"
    write_counting_video(path, 120, 25)
    return path


def remux(source: Path, target: Path, title: str = "", **options: str) -> Path:
    """Put the packets into another container, or the same with other muxer options. The title is
    written in Latin-1."""
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", options=options, metadata_encoding="latin-1") as new,
    ):
        new.metadata["title"] = title
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


def test_facts_of_a_good_file(clip: Path) -> None:
    info = probe_video(clip)
    assert (info.path, info.num_frames, info.average_fps) == (clip, 120, 25.0)
    assert (info.width, info.height, info.orientation) == (160, 120, Orientation())
    assert info.duration_s == pytest.approx(4.8)
    assert info.decoder == "pyav"
    assert pickle.loads(pickle.dumps(info)) == info
    assert probe_video(str(clip)) == info


@pytest.mark.parametrize(
    ("name", "num_frames", "fps", "size"),
    [
        ("bigbuckbunny.mp4", 132, 25.0, (1280, 720)),
        ("bikes.mp4", 250, 25.0, (640, 272)),
        ("carphone_pristine.mp4", 120, 30000 / 1001, (193, 144)),  # 176 pixels of 128:117
    ],
)
def test_facts_of_camera_clips(
    real_clip: Path, name: str, num_frames: int, fps: float, size: tuple[int, int]
) -> None:
    info = probe_video(real_clip.with_name(name))
    assert (info.num_frames, info.width, info.height) == (num_frames, *size)
    assert info.average_fps == pytest.approx(fps)


def test_a_header_rate_that_the_times_contradict_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    # Announced as 50 frames/s; the frames come at 5 frames/s.
    write_counting_video(path, 40, 50, timestamps_s=np.arange(40) / 5)
    assert probe_video(path).average_fps == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("asf", "wmv2"), ("mp4", "libx264"), ("webm", "libvpx"), ("ts", "libx264")],
)
def test_a_file_whose_clock_begins_late_is_whole(tmp_path: Path, suffix: str, codec: str) -> None:
    """Containers announce their length from the first picture on, or from second 0."""
    path = tmp_path / f"late.{suffix}"
    write_counting_video(path, 40, 10, codec=codec, options={}, timestamps_s=5 + np.arange(40) / 10)
    assert probe_video(path).num_frames == 40


@pytest.mark.parametrize(
    ("codec", "options"), [("flv", {}), ("libx264", h264("keyint=15:bframes=3"))]
)
@pytest.mark.parametrize("fps", [1, 0.2])
def test_a_slow_flv_is_whole(
    tmp_path: Path, codec: str, options: dict[str, str], fps: float
) -> None:
    """Its length counts the time of the last frame and the delay of the first."""
    path = tmp_path / "slow.flv"
    write_counting_video(path, 40, fps, codec=codec, options=options)
    assert probe_video(path).num_frames == 40


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(stream.encode())
    info = probe_video(path)
    assert (info.width, info.height, info.pixel_aspect) == (128, 64, Fraction(4, 3))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_title_that_is_no_utf8_does_no_harm(clip: Path, tmp_path: Path, suffix: str) -> None:
    path = remux(clip, tmp_path / f"old.{suffix}", title="Café")
    assert "Café".encode("latin-1") in path.read_bytes()
    info = probe_video(path)
    assert info.num_frames == 120
    chunks = decode_frames(info, np.arange(120), size=32, fitting="squash", chunk_frames=120)
    assert next(chunks).frames_FYXC.shape == (120, 32, 32, 3)


def bad_missing(folder: Path, clip: Path) -> Path:
    return folder / "nowhere.mp4"


def bad_directory(folder: Path, clip: Path) -> Path:
    (folder / "folder.mp4").mkdir()
    return folder / "folder.mp4"


def bad_empty(folder: Path, clip: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def bad_text(folder: Path, clip: Path) -> Path:
    (folder / "notes.mp4").write_text("Not a video, whatever its name says.\n" * 50)
    return folder / "notes.mp4"


def bad_playlist(folder: Path, clip: Path) -> Path:
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n")
    return folder / "list.mp4"


def bad_concat_script(folder: Path, clip: Path) -> Path:
    (folder / "script.mp4").write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    return folder / "script.mp4"


def bad_noise(folder: Path, clip: Path) -> Path:
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    return folder / "noise.mp4"


def bad_sound_only(folder: Path, clip: Path) -> Path:
    with av.open(str(folder / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return folder / "song.mp4"


def bad_no_frames(folder: Path, clip: Path) -> Path:
    """The head of a fragmented file: it announces a video track, and no fragment follows."""
    whole = remux(clip, folder / "whole.mp4", movflags="frag_keyframe+empty_moov")
    content = whole.read_bytes()
    (folder / "still.mp4").write_bytes(content[: content.index(b"moof") - 4])
    return folder / "still.mp4"


def bad_huge(folder: Path, clip: Path) -> Path:
    with av.open(str(folder / "huge.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 20_000, 2, "rgb24"
        container.mux(stream.encode(av.VideoFrame(20_000, 2, "rgb24")))
        container.mux(stream.encode())
    return folder / "huge.mov"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bad_missing, "no such file"),
        (bad_directory, "is a directory"),
        (bad_empty, "is empty"),
        (bad_text, "not a video in any of the containers"),
        (bad_playlist, "not a video in any of the containers"),
        (bad_concat_script, "not a video in any of the containers"),
        (bad_noise, "not a video in any of the containers"),
        (bad_sound_only, "has no video track, only audio"),
        (bad_no_frames, "without a frame that can be decoded"),
        (bad_huge, "20000x2 pixels; at most 16384 a side"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_bad_files_are_named_with_the_reason(
    tmp_path: Path, clip: Path, make: Callable[[Path, Path], Path], reason: str, decoder: str
) -> None:
    path = make(tmp_path, clip)
    with pytest.raises(VideoError, match=reason) as caught:
        probe_video(path, decoder=decoder)  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, copy.reason, str(copy)) == (path, caught.value.reason, str(caught.value))


@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("index_last.mp4", {}),
        ("index_first.mp4", {"movflags": "+faststart"}),
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("clip.mkv", {}),
        ("clip.mov", {}),
        ("clip.flv", {}),
    ],
)
def test_truncated_files_are_found(
    tmp_path: Path, clip: Path, name: str, options: dict[str, str], share: float
) -> None:
    whole = remux(clip, tmp_path / name, **options)
    assert probe_video(whole).num_frames == 120
    content = whole.read_bytes()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        VideoError, match=r"truncated|damaged|cannot be decoded|corrupted"
    ) as caught:
        probe_video(cut)
    assert caught.value.path == cut
