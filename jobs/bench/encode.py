"""Speed and memory of encoding and of reading shards; prints tables of ratios measured in one run.

    python jobs/bench/encode.py [--folder outputs/bench]
    python jobs/bench/encode.py --parts scaling --clip FILE --sides 56 336

Encoding is compared with the plain loop: one process that decodes every frame at full size and
encodes the sampled ones one by one. Both make the same tokens from the same file (1 fps of a
10-minute 720p H.264 video) with the tiny tower. What it costs to let the decoder scale frames is in
`scaling.py`.
"""

import dataclasses
import logging
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import ray
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scaling import scaling
from scenes import write_scene_video

from longva_ray.lm.load import load_frame_encoder
from longva_ray.options import parse
from longva_ray.recipes import checkpoint_of, get_recipe
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.pipeline import EncodeReport, encode_videos
from longva_ray.shards.schema import EncodingSpec, tensor_to_stored
from longva_ray.shards.store import ShardStore

VIDEO_ID = "0" * 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure encoding and reading."""

    folder: str = "outputs/bench"
    """Where the bench keeps videos and shards; the next run uses the videos again."""
    recipe: str = "tiny"
    minutes: int = 10
    """Length of the 720p video of the speed comparison."""
    memory_minutes: tuple[int, int] = (10, 60)
    """Lengths of the 360p videos whose peak memory is compared."""
    read_frames: int = 3000
    clip: str | None = None
    """A video from a camera, for `scaling`; None takes the one of the speed comparison."""
    sides: tuple[int, ...] = (56, 336)
    """Sides of the squares that its frames are scaled to."""
    parts: tuple[Literal["speed", "memory", "reading", "scaling"], ...] = (
        "speed",
        "memory",
        "reading",
        "scaling",
    )
    """What is measured."""
    encode: EncodeConfig


def plain_loop(video: Path, checkpoint: str) -> tuple[float, int]:
    """Decode everything and encode frame by frame: seconds and frames.

    Weights are loaded before the clock starts.
    """
    import decord

    encoder = load_frame_encoder(checkpoint, dtype=torch.float32)
    started = time.perf_counter()
    reader = decord.VideoReader(str(video))
    step = round(reader.get_avg_fps())
    encoded = []
    for index in range(len(reader)):
        frame_YXC = reader.next().asnumpy()
        if index % step == 0:
            picture = Image.fromarray(frame_YXC).resize((encoder.grid_size, encoder.grid_size))
            encoded.append(encoder.encode(np.asarray(picture)[None], micro_batch=1))
    return time.perf_counter() - started, len(encoded)


def bare_tower(checkpoint: str, micro_batch: int, frames: int = 640) -> float:
    """Frames/s of the tower and projector alone, on frames in memory."""
    encoder = load_frame_encoder(checkpoint, dtype=torch.float32)
    size = encoder.grid_size
    pixels = np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8)
    encoder.encode(pixels[:micro_batch], micro_batch=micro_batch)
    started = time.perf_counter()
    encoder.encode(pixels, micro_batch=micro_batch)
    return frames / (time.perf_counter() - started)


class PeakMemory:
    """Peak private memory (USS) of this process and its descendants while a block runs, sampled."""

    def __enter__(self) -> "PeakMemory":
        self.mib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(0.2):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.mib = max(self.mib, total / 2**20)


def encode_fresh(video: Path, checkpoint: str, config: EncodeConfig) -> EncodeReport:
    """Encode into an empty store."""
    root = video.parent / "shards"
    shutil.rmtree(root, ignore_errors=True)
    return encode_videos([str(video)], store=ShardStore(root), checkpoint=checkpoint, config=config)


def speed_video(options: Options, folder: Path) -> Path:
    video = folder / f"{options.minutes}min-720p.mp4"
    if not video.exists():
        write_scene_video(video, seconds=60 * options.minutes, fps=30, size=(1280, 720))
    return video


def speed(options: Options, checkpoint: str, folder: Path, console: Console) -> None:
    video = speed_video(options, folder)
    # In a separate process: decord keeps gigabytes, which would count as ours below.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as alone:
        plain_s, plain_frames = alone.submit(plain_loop, video, checkpoint).result()
    report = encode_fresh(video, checkpoint, options.encode)
    assert report.frames_encoded == plain_frames
    ours = report.frames_encoded / report.wall_s
    table = Table("encoding 1 fps of 720p", "seconds", "frames/s", "ratio")
    table.add_row("plain loop", f"{plain_s:.1f}", f"{plain_frames / plain_s:.1f}", "1.00")
    table.add_row(
        "Ray Data, workers' start included",
        f"{report.wall_s:.1f}",
        f"{ours:.1f}",
        f"{plain_s / report.wall_s:.2f}",
    )
    console.print(table)
    stages = report.decode_s + report.encode_s + report.write_s
    tower = bare_tower(checkpoint, options.encode.micro_batch)
    inside = report.frames_encoded / report.encode_s
    table = Table("stage", "worker seconds", "share")
    for name in ("decode_s", "encode_s", "write_s"):
        seconds = getattr(report, name)
        table.add_row(name.removesuffix("_s"), f"{seconds:.2f}", f"{100 * seconds / stages:.0f} %")
    console.print(table)
    console.print(
        f"tower inside the pipeline {inside:.0f} frames/s, bare {tower:.0f} frames/s: "
        f"{100 * inside / tower:.0f} %"
    )


def memory(options: Options, checkpoint: str, folder: Path, console: Console) -> None:
    table = Table("peak memory while encoding", "frames", "MiB", "ratio")
    first = 0.0
    videos = {minutes: folder / f"{minutes}min-360p.mp4" for minutes in options.memory_minutes}
    for minutes, video in videos.items():
        if not video.exists():
            write_scene_video(video, seconds=60 * minutes, fps=10, size=(640, 360))
    # Not measured: it starts every worker, so that below only the length differs.
    encode_fresh(videos[max(videos)], checkpoint, options.encode)
    for minutes, video in videos.items():
        with PeakMemory() as peak:
            report = encode_fresh(video, checkpoint, options.encode)
        first = first or peak.mib
        table.add_row(
            f"{minutes} minutes",
            str(report.frames_encoded),
            f"{peak.mib:.0f}",
            f"{peak.mib / first:.3f}",
        )
    console.print(table)


def reading(frames: int, folder: Path, console: Console) -> None:
    """Shards of LongVA-7B's shape: 144 tokens of width 3584 in bfloat16 for each frame."""
    root = folder / "read"
    spec = EncodingSpec(
        encoder_fingerprint="bench",
        sampling="1fps",
        fitting="letterbox",
        decoder="pyav",
        frame_size=336,
        dtype="bfloat16",
        tokens_per_frame=144,
        width=3584,
        micro_batch=32,
        part_frames=64,
    )
    store = ShardStore(root)
    for part in range(spec.num_parts(frames)):
        rows = np.array(spec.part_rows(part, frames))
        tokens_FQD = torch.full((len(rows), 144, 3584), float(part), dtype=torch.bfloat16)
        stored_FQD = tensor_to_stored(tokens_FQD)
        store.write_part(VIDEO_ID, spec, part, rows, rows.astype(float), stored_FQD)
    store.commit(VIDEO_ID, spec, source="bench", num_frames=frames, duration_s=float(frames))
    started = time.perf_counter()
    video: EncodedVideo = ShardStore(root).open(VIDEO_ID, spec)
    first_FQD = next(video.parts())
    assert float(first_FQD[0, 0, 0]) == 0.0
    to_first = time.perf_counter() - started
    total = sum(float(tokens_FQD[0, 0, 0]) for tokens_FQD in video.parts())
    mapped = time.perf_counter() - started
    assert total == sum(range(spec.num_parts(frames)))
    table = Table(f"reading {frames} frames of 144 x 3584 bfloat16", "ms")
    table.add_row("open the store to the first frame", f"{1000 * to_first:.1f}")
    table.add_row("until every part is mapped and touched", f"{1000 * mapped:.1f}")
    console.print(table)
    shutil.rmtree(root)


def main() -> None:
    options = parse(Options)
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=100)
    revision = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(revision, capture_output=True, text=True, check=False).stdout.strip()
    console.print(f"commit {commit}, {psutil.cpu_count()} CPUs, torch {torch.__version__}")
    checkpoint = checkpoint_of(get_recipe(options.recipe))
    if {"speed", "memory"} & set(options.parts):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    if "speed" in options.parts:
        speed(options, checkpoint, folder, console)
    if "memory" in options.parts:
        memory(options, checkpoint, folder, console)
    if "reading" in options.parts:
        reading(options.read_frames, folder, console)
    if "scaling" in options.parts:
        clip = Path(options.clip) if options.clip else speed_video(options, folder)
        scaling(clip, checkpoint, options.sides, options.encode, console)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    main()
