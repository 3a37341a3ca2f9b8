"""Decoded pictures are upright, in place, and look as another decoder makes them."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_files import DECODERS
from PIL import Image

from longva_ray.video.canvas import Resize
from longva_ray.video.container import VideoError
from longva_ray.video.decode import decode_frames
from longva_ray.video.fitting import Fitting
from longva_ray.video.probe import DecoderName, probe_video
from longva_ray.video.write import write_video

av = pytest.importorskip("av")


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
        request: dict[str, Any] = {"size": 112, "fitting": "squash", "chunk_frames": 6}
        chunk = next(decode_frames(info, indices, **request))
        for f, frame_YXC in enumerate(chunk.frames_FYXC):
            error_F = np.abs(plain_FYXC - frame_YXC).mean(axis=(1, 2, 3))
            assert error_F.argmin() == f
            assert error_F[f] < 5
        exact = next(decode_frames(info, indices, resize="pillow", **request))
        # Each has its own conversion to RGB; the reference has PyAV's.
        largest = np.abs(plain_FYXC - exact.frames_FYXC).max()
        assert largest == 0 if decoder == "pyav" else largest <= 3


@pytest.mark.parametrize("decoder", DECODERS)
def test_fittings_show_what_they_promise(tmp_path: Path, decoder: DecoderName) -> None:
    """A 160x80 picture, red | green | blue at a quarter and three quarters, on 64x64."""
    red, green, blue, black = (220, 20, 20), (20, 220, 20), (20, 20, 220), (0, 0, 0)
    picture_YXC = np.empty((80, 160, 3), dtype=np.uint8)
    picture_YXC[:, :40], picture_YXC[:, 40:120], picture_YXC[:, 120:] = red, green, blue
    resizes: tuple[Resize, ...] = ("decoder", "pillow")
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
    for (fitting, colors), resize in product(expected.items(), resizes):
        chunks = decode_frames(
            probe_video(path, decoder=decoder),
            np.array([3]),
            size=64,
            fitting=fitting,
            resize=resize,
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
