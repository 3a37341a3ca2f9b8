"""Counting videos in many formats, and reading chosen frames of them back."""

from pathlib import Path
from typing import Any

import numpy as np
from counting_video import read_counting_frame, write_counting_video

from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import DecoderName, probe_video

DECODERS: tuple[DecoderName, ...] = ("pyav", "decord")

NUM_FRAMES, FPS = 150, 10
"""Of every file in `FILES`."""


def h264(x264: str) -> dict[str, str]:
    """Options of the encoder, with x264's names."""
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


def counting_file(folder: Path, name: str) -> Path:
    """One of `FILES`, written once."""
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
