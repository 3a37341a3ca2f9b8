"""Haystacks that are free to share: hours of video with ever-changing scenes, made from a seed.

    seconds, seed -> an H.264 file; the same seed gives the same frames

A frame a second, which is how needle tests sample. Each scene has a sky, a ground and things moving
before them, all drawn from the seed; no letters and no digits appear, so that no scene can answer a
question about a needle. Does not resemble any film.

Shapes: Y rows, X columns, C colour channels.
"""

import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from longva_ray.video.write import Frame, write_video

SCENE_SECONDS = (4, 20)
"""Shortest and longest scene."""


KINDS = ("ellipse", "rectangle", "triangle", "line")


def write_haystack_video(
    path: str | os.PathLike[str],
    *,
    seconds: int,
    seed: int,
    size: tuple[int, int] = (448, 336),
) -> None:
    """Write `seconds` frames at 1 frame/s; `size` is (width, height). An hour takes about 20 s.

    Raises ValueError for fewer than one second.
    """
    if seconds < 1:
        raise ValueError(f"a haystack of {seconds} s; want at least 1")
    write_video(path, haystack_frames(seconds, seed=seed, size=size), fps=1)


def haystack_frames(seconds: int, *, seed: int, size: tuple[int, int]) -> Iterator[Frame]:
    """The frames Y X C of a haystack, one for each second."""
    rng = np.random.default_rng(seed)
    left = seconds
    while left > 0:
        length = min(left, int(rng.integers(*SCENE_SECONDS, endpoint=True)))
        yield from _scene(rng, length, size)
        left -= length


def _scene(rng: np.random.Generator, length: int, size: tuple[int, int]) -> Iterator[Frame]:
    width, height = size
    backdrop = _backdrop(rng, width, height)
    count = int(rng.integers(2, 9))
    kinds = rng.choice(KINDS, count)
    colours = rng.integers(0, 256, (count, 3))
    sides = rng.uniform(0.05, 0.4, (count, 2)) * (width, height)
    start, drift = rng.uniform(0, 1, (count, 2)), rng.normal(0, 0.02, (count, 2))
    for second in range(length):
        picture = Image.fromarray(backdrop)
        draw = ImageDraw.Draw(picture)
        for thing in range(count):
            centre = (start[thing] + second * drift[thing]) % 1 * (width, height)
            _draw_thing(draw, str(kinds[thing]), centre, sides[thing], tuple(colours[thing]))
        yield np.asarray(picture)


def _backdrop(rng: np.random.Generator, width: int, height: int) -> Frame:
    """A sky that fades from one colour to another above a ground, with a slight grain."""
    top, bottom, ground = rng.integers(0, 256, (3, 3)).astype(np.float64)
    share_Y11 = np.linspace(0, 1, height)[:, None, None]
    sky_YXC = np.broadcast_to(top + (bottom - top) * share_Y11, (height, width, 3)).copy()
    horizon = int(rng.uniform(0.4, 0.95) * height)
    sky_YXC[horizon:] = ground
    sky_YXC += rng.normal(0, 4, (height, width, 1))
    return sky_YXC.clip(0, 255).astype(np.uint8)


def _draw_thing(
    draw: ImageDraw.ImageDraw,
    kind: str,
    centre: np.ndarray,
    sides: np.ndarray,
    colour: tuple[int, ...],
) -> None:
    (left, top), (right, bottom) = centre - sides / 2, centre + sides / 2
    if kind == "ellipse":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif kind == "rectangle":
        draw.rectangle((left, top, right, bottom), fill=colour)
    elif kind == "triangle":
        draw.polygon([(left, bottom), (right, bottom), (centre[0], top)], fill=colour)
    else:
        draw.line((left, top, right, bottom), fill=colour, width=max(2, int(sides.min() / 6)))
