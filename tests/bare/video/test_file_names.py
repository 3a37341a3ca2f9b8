"""Any path to a local file is opened as a file, whatever its name looks like to FFmpeg."""

import logging
from pathlib import Path

import numpy as np
import pytest
from counting_files import DECODERS, counting_file, read_all

from longva_ray.video.container import VideoError
from longva_ray.video.probe import DecoderName, probe_video
from longva_ray.video.write import write_video

pytest.importorskip("av")

NAMES = (
    "10:30.mp4",
    "-",
    "-i.mp4",
    "file:clip.mp4",
    "http:clip.mp4",
    "concat:a.mp4|b.mp4",
    "data:,clip",
    "clip%03d.mp4",
    "clip #1 ?x=&y.mp4",
    "Überraschung.mp4",
)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_relative_path_is_a_file(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    decoder: DecoderName,
) -> None:
    caplog.set_level(logging.INFO, logger="longva_ray.video.decord_frames")
    (tmp_path / name).write_bytes(counting_file(folder, "short_groups.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert probe_video(name).path == Path(name)
    shown, _ = read_all(Path(name), np.array([3, 77]), decoder)
    assert shown == [3, 77]
    assert "decord cannot open it" not in caplog.text


def test_a_path_with_a_colon_in_a_folder_is_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "https:").mkdir()
    path = Path("https:", "clip.mp4")
    (tmp_path / path).write_bytes(counting_file(folder, "short_groups.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert probe_video(path).num_frames == 150


def test_an_error_names_the_path_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("10:30.mp4").write_text("not a video\n" * 100)
    with pytest.raises(VideoError, match=r"^10:30\.mp4: is not a video"):
        probe_video("10:30.mp4")


def test_a_video_is_written_under_such_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video("10:30.mp4", [np.zeros((32, 32, 3), dtype=np.uint8)] * 3, fps=10)
    assert [path.name for path in tmp_path.iterdir()] == ["10:30.mp4"]
    assert probe_video("10:30.mp4").num_frames == 3
