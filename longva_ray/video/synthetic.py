"""Videos made from nothing, whose content is known: for haystacks, benchmarks and tests.

frames Y X C -> a video file (`write_video`); a seed -> a video of numbered scenes and the list of
what it shows (`write_scene_video`); a number of frames -> a video whose frame k shows k
(`write_counting_video`, `read_counting_frame`).

Real encoded files, so whatever reads them takes the same path as for a camera's file. Nothing here
resembles the world: the scenes test that pixels arrive, not that a model understands films.

Shapes: Y rows, X columns, C colour channels.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Frame = npt.NDArray[np.uint8]

TIME_BASE = Fraction(1, 90_000)
"""Ticks of the written timestamps: what MPEG uses, exact for 24, 25, 30, 30000/1001... frames/s."""
FAST_H264 = {"preset": "superfast", "crf": "23"}

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (200, 30, 30),
    "green": (20, 130, 50),
    "blue": (30, 60, 200),
    "orange": (235, 130, 20),
    "purple": (120, 40, 160),
    "teal": (0, 135, 140),
    "brown": (115, 70, 35),
    "gray": (110, 110, 110),
}
SHAPES = ("circle", "square", "triangle")
SCENE_SECONDS = 10.0
"""Length of a scene when their number is not given."""
LAP_SECONDS = 4.0
"""Time in which a scene's shape crosses the picture and comes back."""

CODE_SIDE = 4
"""A counting frame's code has this many rows and columns of cells, one bit each."""
MAX_COUNT = 2 ** (CODE_SIDE * CODE_SIDE)
"""A counting video has at most this many frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A number on a plain background of a named colour, with a white shape moving below it."""

    number: int
    color: str
    shape: str
    start_s: float
    end_s: float


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    fps: float | Fraction,
    codec: str = "libx264",
    options: Mapping[str, str] = FAST_H264,
    rotation: int = 0,
    timestamps_s: Iterable[float] | None = None,
) -> None:
    """Encode RGB frames (Y X C, all of one size, both sides even) as yuv420p.

    The file name's ending chooses the container. `rotation`: degrees clockwise by which a player
    turns the frames; they are stored unturned. `timestamps_s`: one increasing time per frame
    instead of a constant rate. The file appears under its name only when it is complete.

    Raises ValueError for no frame at all, an odd side, frames of different sizes, or a number of
    times that is not that of the frames.
    """
    path = Path(path)
    rate = Fraction(fps).limit_denominator(100_000)
    # The ending stays last: it tells FFmpeg which container to write.
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.unfinished{path.suffix}")
    try:
        _encode(unfinished, iter(frames), rate, codec, dict(options), rotation, timestamps_s)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(
    path: Path,
    frames: Iterator[Frame],
    rate: Fraction,
    codec: str,
    options: dict[str, str],
    rotation: int,
    timestamps_s: Iterable[float] | None,
) -> None:
    import av

    first_YXC = next(frames, None)
    if first_YXC is None:
        raise ValueError("no frame to write; wanted at least 1")
    height, width, _ = first_YXC.shape
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width}x{height} pixels; yuv420p wants both sides even")
    times = count(0, 1 / rate) if timestamps_s is None else iter(timestamps_s)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(-rotation)  # FFmpeg counts counterclockwise
        # As many times as frames, when they are given.
        for frame_YXC, time_s in zip(
            chain([first_YXC], frames), times, strict=timestamps_s is not None
        ):
            if frame_YXC.shape != first_YXC.shape:
                raise ValueError(f"a frame of {frame_YXC.shape} after one of {first_YXC.shape}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_YXC), format="rgb24")
            frame.pts, frame.time_base = round(time_s / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def plan_scenes(seconds: float, *, scenes: int | None = None, seed: int = 0) -> list[Scene]:
    """Divide `seconds` into scenes, one per 10 s unless said otherwise; same seed, same scenes.

    Numbers are distinct and below 100 (1000 for very many scenes), so they do not tell the order;
    neighbours differ in colour. Raises ValueError for a length or a number of scenes below 1.
    """
    total = max(1, round(seconds / SCENE_SECONDS)) if scenes is None else scenes
    if seconds <= 0 or not 1 <= total <= 999:
        raise ValueError(f"{total} scenes in {seconds} s; wanted 1..999 scenes and more than 0 s")
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(1, 100 if total < 100 else 1000))[:total]
    # Shuffling a cycle of all colours anew each time around, with no colour twice in a row.
    colors: list[str] = []
    while len(colors) < total:
        cycle = [str(name) for name in rng.permutation(list(COLORS))]
        colors += cycle[::-1] if colors and colors[-1] == cycle[0] else cycle
    return [
        Scene(
            number=int(numbers[k]),
            color=colors[k],
            shape=str(rng.choice(SHAPES)),
            start_s=k * seconds / total,
            end_s=(k + 1) * seconds / total,
        )
        for k in range(total)
    ]


def numbered_scenes(
    scenes: list[Scene], *, fps: float, size: tuple[int, int] = (640, 360)
) -> Iterator[Frame]:
    """Draw the scenes one after the other: frames Y X C, `size` is (width, height)."""
    width, height = size
    k = 0
    for scene in scenes:
        still_YXC = _still_picture(scene, width, height)
        shape_YX = _shape_mask(scene.shape, max(8, height // 5))
        side = len(shape_YX)
        while k / fps < scene.end_s:
            # There and back on a straight line, a corner of the shape at 0..1 of the free width.
            lap = (k / fps - scene.start_s) / LAP_SECONDS % 1
            left = round((width - side) * (1 - abs(2 * lap - 1)))
            frame_YXC = still_YXC.copy()
            window_YXC = frame_YXC[height - side - 4 : height - 4, left : left + side]
            window_YXC[shape_YX] = 255
            yield frame_YXC
            k += 1


def write_scene_video(
    path: str | os.PathLike[str],
    *,
    seconds: float,
    fps: float = 12,
    size: tuple[int, int] = (640, 360),
    scenes: int | None = None,
    seed: int = 0,
) -> list[Scene]:
    """Write an H.264 video of numbered scenes; returns what it shows. 3 minutes take about 5 s."""
    planned = plan_scenes(seconds, scenes=scenes, seed=seed)
    write_video(path, numbered_scenes(planned, fps=fps, size=size), fps=fps)
    return planned


def _still_picture(scene: Scene, width: int, height: int) -> Frame:
    """What does not move: the background and the number, as tall as fits above the shape."""
    picture = Image.new("RGB", (width, height), COLORS[scene.color])
    font = ImageFont.load_default(size=min(height * 0.6, width * 0.4))
    ImageDraw.Draw(picture).text(
        (width / 2, height * 0.38), str(scene.number), fill="white", font=font, anchor="mm"
    )
    return np.asarray(picture)


def _shape_mask(shape: str, side: int) -> npt.NDArray[np.bool_]:
    mask = Image.new("1", (side, side))
    draw = ImageDraw.Draw(mask)
    if shape == "circle":
        draw.ellipse((0, 0, side - 1, side - 1), fill=1)
    elif shape == "square":
        draw.rectangle((0, 0, side - 1, side - 1), fill=1)
    else:
        draw.polygon([(0, side - 1), (side - 1, side - 1), (side // 2, 0)], fill=1)
    return np.asarray(mask)


def write_counting_video(
    path: str | os.PathLike[str],
    num_frames: int,
    fps: float | Fraction,
    *,
    size: tuple[int, int] = (160, 120),
    codec: str = "libx264",
    options: Mapping[str, str] = FAST_H264,
    rotation: int = 0,
    timestamps_s: Iterable[float] | None = None,
) -> None:
    """Write a video whose frame k shows k: `size` is (width, height), the rest `write_video`'s."""
    if not 1 <= num_frames <= MAX_COUNT:
        raise ValueError(f"a counting video of {num_frames} frames; wanted 1..{MAX_COUNT}")
    write_video(
        path,
        (draw_counting_frame(k, size) for k in range(num_frames)),
        fps=fps,
        codec=codec,
        options=options,
        rotation=rotation,
        timestamps_s=timestamps_s,
    )


def draw_counting_frame(k: int, size: tuple[int, int]) -> Frame:
    """k as 4 x 4 cells, white for 1, most significant bit first, inside a white frame on gray.

    The code lies in the middle of the picture, where every fitting keeps it, and black and white
    blocks survive lossy coding and resizing.
    """
    width, height = size
    side = int(min(size) * 0.8)
    border = max(2, side // 12)
    cell = (side - 2 * border) // CODE_SIDE
    side = cell * CODE_SIDE + 2 * border
    top, left = (height - side) // 2, (width - side) // 2
    frame_YXC = np.full((height, width, 3), 64, dtype=np.uint8)
    frame_YXC[top : top + side, left : left + side] = 255
    bits = [k >> bit & 1 for bit in reversed(range(CODE_SIDE * CODE_SIDE))]
    code_YX = np.array(bits, dtype=np.uint8).reshape(CODE_SIDE, CODE_SIDE) * np.uint8(255)
    pixels_YX = code_YX.repeat(cell, axis=0).repeat(cell, axis=1)
    inner_Y, inner_X = (
        slice(top + border, top + side - border),
        slice(left + border, left + side - border),
    )
    frame_YXC[inner_Y, inner_X] = pixels_YX[:, :, None]
    return frame_YXC


def read_counting_frame(frame_YXC: Frame) -> int:
    """The number that a frame of a counting video shows, at any size, with bars or cut sides.

    Raises ValueError for a frame that shows no code, or one that cannot be read for certain.
    """
    gray_YX = frame_YXC.astype(np.float32).mean(axis=-1)
    rows, columns = (np.flatnonzero((gray_YX > 160).any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        raise ValueError("the frame shows no counting code")
    value = 0
    for y in range(CODE_SIDE):
        for x in range(CODE_SIDE):
            level = _cell_level(gray_YX, rows, columns, y, x)
            if 96 < level < 160:
                raise ValueError(f"cell ({y}, {x}) of the counting code is gray ({level:.0f})")
            value = value << 1 | (level > 128)
    return value


def _cell_level(
    gray_YX: npt.NDArray[np.float32],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    y: int,
    x: int,
) -> float:
    """Mean brightness in the middle of a cell, found from where the white frame begins and ends."""
    middle = []
    for lines, position in ((rows, y), (columns, x)):
        start, side = lines[0], lines[-1] + 1 - lines[0]
        # The frame around the cells takes a twelfth of the side at each end.
        centre = start + side * (1 / 12 + (position + 0.5) / CODE_SIDE * 10 / 12)
        middle.append(slice(int(centre - side / 24), max(int(centre + side / 24), int(centre) + 1)))
    return float(gray_YX[middle[0], middle[1]].mean())
