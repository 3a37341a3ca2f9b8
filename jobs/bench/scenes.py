"""Videos of numbered scenes, made from nothing, whose content is known: for the benches.

a seed -> an H.264 file and the list of what it shows (`write_scene_video`)

A real encoded file, so whatever reads it takes the same path as for a camera's file. Nothing here
resembles the world: the scenes test that pixels arrive, not that a model understands films.

Shapes: Y rows, X columns, C colour channels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from longva_ray.evaluate.video.needles import COLORS
from longva_ray.video.write import Frame, write_video

SHAPES = ("circle", "square", "triangle")

SCENE_SECONDS = 10.0
"""Length of a scene when their number is not given."""

LAP_SECONDS = 4.0
"""Time in which a scene's shape crosses the picture and comes back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A number on a plain background of a named colour, with a white shape moving below it."""

    number: int
    color: str
    shape: str
    start_s: float
    end_s: float


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
    # Each cycle holds all colours in a new order, and no colour comes twice in a row.
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
    """Draw the scenes one after another: frames Y X C; `size` is (width, height)."""
    width, height = size
    k = 0
    for scene in scenes:
        still_YXC = _still_picture(scene, width, height)
        shape_YX = _shape_mask(scene.shape, max(8, height // 5))
        side = len(shape_YX)
        while k / fps < scene.end_s:
            # There and back on a straight line: the shape's left side at 0..1 of the free width.
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
