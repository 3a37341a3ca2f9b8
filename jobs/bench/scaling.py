"""What it costs to let the decoder scale frames, instead of Pillow at full size as in the released
code: frames/s of decoding, and how far pixels and visual tokens are apart. Part of `encode.py`.

Shapes: F frames, Y/X/C pixel axes, Q visual tokens of a frame, D width of the language model.
"""

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.video.canvas import Resize
from longva_ray.video.decode import decode_frames
from longva_ray.video.fitting import Fitting
from longva_ray.video.probe import VideoInfo, probe_video

MOST_FRAMES = 600
"""Of the clip, from its beginning: all of them, so that scaling is not lost beside decoding."""

ROUNDS = 3


def scaling(
    clip: Path, checkpoint: str, sides: tuple[int, ...], config: EncodeConfig, console: Console
) -> None:
    """One table: each side, and the tokens of the checkpoint's encoder at its own."""
    info = probe_video(clip)
    fitting = load_longva_config(checkpoint).frame_fitting
    encoder = load_frame_encoder(checkpoint, dtype=torch.float32)
    table = Table(
        "side",
        "decoder, frames/s",
        "pillow, frames/s",
        "ratio",
        "pixel difference",
        "token error",
        "worst frame",
        title=f"{clip.name}, {info.width}x{info.height}, {fitting}",
    )
    for side in sides:
        fast_FYXC, fast = _decode(info, side, fitting, "decoder")
        exact_FYXC, exact = _decode(info, side, fitting, "pillow")
        pixels = np.abs(fast_FYXC.astype(np.int16) - exact_FYXC).mean()
        errors = ["-", "-"]
        if side == encoder.grid_size:
            fast_FQD, exact_FQD = (
                encoder.encode(frames_FYXC, micro_batch=config.micro_batch)
                for frames_FYXC in (fast_FYXC, exact_FYXC)
            )
            error_F = (fast_FQD - exact_FQD).norm(dim=(1, 2)) / exact_FQD.norm(dim=(1, 2))
            errors = [f"{100 * error:.2f} %" for error in (error_F.mean(), error_F.max())]
        numbers = (f"{fast:.0f}", f"{exact:.0f}", f"{fast / exact:.2f}", f"{pixels:.2f}")
        table.add_row(f"{side} px", *numbers, *errors)
    console.print(table)


def _decode(
    info: VideoInfo, side: int, fitting: Fitting, resize: Resize
) -> tuple[np.ndarray, float]:
    """The frames F Y X C, and frames/s of the fastest round."""
    index_F = np.arange(min(info.num_frames, MOST_FRAMES))
    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        (chunk,) = decode_frames(
            info, index_F, size=side, fitting=fitting, resize=resize, chunk_frames=len(index_F)
        )
        fastest = min(fastest, time.perf_counter() - started)
    return chunk.frames_FYXC, len(index_F) / fastest
