"""A scene of the tiny world as a picture: one bright thing on a dim background.

    Scene -> frame Y X C (uint8)

Two pictures of one scene differ in size, place and tilt of the thing, in the shade of its colour,
and in the background: a gradient, a spotlight, stripes, dots, checks or clouds in dark, greyish
colours that no thing has. Letters and digits come from the font inside Pillow, thin to bold.
Silhouettes are drawn once, large and smooth, and then only moved; a picture of 224 pixels takes
about three milliseconds. Nothing moves: a frame is a scene, and the next frame another.

Shapes: Y rows, X columns, C colour channels (red, green, blue).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFont

from longva_ray.tiny.world import COLOURS, DIGITS, KIND_OF, Scene

Frame = npt.NDArray[np.uint8]


Field = npt.NDArray[np.float32]


Point = tuple[float, float]


THING_SIDE = (0.6, 0.9)
"""Side of the square that a thing fills, as a fraction of the frame's: smallest and largest."""


TILT_DEGREES = 9.0


STRETCH = 0.08
"""Largest change of a thing's width against its height."""


BOLDNESS = (0, 2, 4)
"""Widths by which the strokes of letters and digits are thickened, in hundredths of their side."""


DIM = 0.26
"""Brightest background, as a fraction of full brightness: below the darkest thing (purple)."""


_DRAWN_SIDE = 112  # of a picture before it is made smaller


_MASTER = 256  # side of a stored silhouette


_SMOOTH = 4  # it is drawn this many times larger


_REACH = 0.86  # from the middle of its square to its edge a thing reaches this far


def draw(scene: Scene, size: int, rng: np.random.Generator) -> Frame:
    """One of the many pictures of a scene: Y X C, Y = X = size.

    Raises:
        ValueError: a size below 16 pixels, at which things cannot be told apart.
    """
    if size < 16:
        raise ValueError(f"a frame of {size} pixels shows nothing; wanted at least 16")
    cover_YX1 = _cover(scene.thing, size, rng)[:, :, None]
    background_YXC = _background(size, rng)
    thing_YXC = _thing_colour(scene.colour, size, rng)
    frame_YXC = background_YXC + cover_YX1 * (thing_YXC - background_YXC)
    return frame_YXC.clip(0, 255).astype(np.uint8)


def draw_small(scene: Scene, size: int, rng: np.random.Generator) -> Frame:
    """A picture drawn large and then made smaller, as the frames of a video reach the model."""
    large = Image.fromarray(draw(scene, max(size, _DRAWN_SIDE), rng))
    return np.asarray(large.resize((size, size), Image.Resampling.BICUBIC))


def _cover(thing: str, size: int, rng: np.random.Generator) -> Field:
    """How much of each pixel the thing covers, in [0, 1]: its silhouette, sized, tilted, moved."""
    boldness = int(rng.choice(BOLDNESS)) if KIND_OF[thing] != "shape" else 0
    side = size * rng.uniform(*THING_SIDE)
    angle = math.radians(rng.uniform(-TILT_DEGREES, TILT_DEGREES))
    stretch = 1 + rng.uniform(-STRETCH, STRETCH)
    centre_x, centre_y = size / 2 + (size - side) / 2 * rng.uniform(-1, 1, size=2)
    # Pillow asks where in the silhouette a pixel of the frame comes from.
    per_pixel = _MASTER / side
    cos, sin = math.cos(angle) * per_pixel, math.sin(angle) * per_pixel
    a, b, d, e = cos * stretch, sin * stretch, -sin / stretch, cos / stretch
    middle = _MASTER / 2
    matrix = (
        *(a, b, middle - a * centre_x - b * centre_y),
        *(d, e, middle - d * centre_x - e * centre_y),
    )
    moved = _silhouette(thing, boldness).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return _as_field(moved)


def _as_field(image: Image.Image) -> Field:
    """Grey values as numbers from 0 to 1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _thing_colour(colour: str, size: int, rng: np.random.Generator) -> Field:
    """The colour, a little off, and lit from above: Y X C."""
    shade_C = np.array(COLOURS[colour]) + rng.uniform(-14, 14, size=3)
    light_Y = np.linspace(1.08, 1 - rng.uniform(0, 0.16), size)
    light_YXC: Field = (light_Y[:, None, None] * shade_C).astype(np.float32)
    return light_YXC


def _background(size: int, rng: np.random.Generator) -> Field:
    """A pattern of two dim colours: Y X C."""
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    blend_YX1 = pattern(size, rng)[:, :, None]
    first_C, second_C = _dim_colour(rng), _dim_colour(rng)
    return first_C + blend_YX1 * (second_C - first_C)


def _dim_colour(rng: np.random.Generator) -> Field:
    hue, saturation, value = rng.uniform(), rng.uniform(0, 0.5), rng.uniform(0.05, DIM)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32) * 255


# Patterns: how much of the second colour each pixel has, Y X in [0, 1].


@lru_cache(maxsize=4)
def _axes(size: int) -> tuple[Field, Field]:
    """Rows and columns from -1 to 1: Y 1 and 1 X."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return line[:, None], line[None, :]


def _along(size: int, rng: np.random.Generator) -> Field:
    """Distance along a random direction, about -1 to 1."""
    y, x = _axes(size)
    angle = rng.uniform(0, 2 * math.pi)
    along_YX: Field = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
    return along_YX


def _gradient(size: int, rng: np.random.Generator) -> Field:
    return (_along(size, rng) / 2 + 0.5).clip(0, 1)


def _spotlight(size: int, rng: np.random.Generator) -> Field:
    y, x = _axes(size)
    at_y, at_x = rng.uniform(-0.7, 0.7, size=2).astype(np.float32)
    return np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) * np.float32(rng.uniform(0.8, 2.5)))


def _stripes(size: int, rng: np.random.Generator) -> Field:
    waves = np.sin(_along(size, rng) * np.float32(rng.uniform(4, 14)) + rng.uniform(0, 6))
    return (waves * 4 + np.float32(0.5)).clip(0, 1)


def _dots(size: int, rng: np.random.Generator) -> Field:
    y, x = _axes(size)
    rate = np.float32(rng.uniform(6, 14))
    offset_y, offset_x = rng.uniform(0, 6, size=2).astype(np.float32)
    return (np.sin(y * rate + offset_y) * np.sin(x * rate + offset_x) * 4 - 1).clip(0, 1)


def _checks(size: int, rng: np.random.Generator) -> Field:
    y, x = _axes(size)
    rate = np.float32(rng.uniform(3, 9))
    return (np.sin(y * rate) * np.sin(x * rate) * 8 + np.float32(0.5)).clip(0, 1)


def _clouds(size: int, rng: np.random.Generator) -> Field:
    cells = int(rng.integers(3, 9))
    coarse = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
    smooth = coarse.resize((size, size), Image.Resampling.BICUBIC)
    return _as_field(smooth)


_PATTERNS: tuple[Callable[[int, np.random.Generator], Field], ...] = (
    _gradient,
    _spotlight,
    _stripes,
    _dots,
    _checks,
    _clouds,
)


# Silhouettes, drawn in a square from (-1, -1) at the top left to (1, 1) at the bottom right.


@lru_cache(maxsize=128)
def _silhouette(thing: str, boldness: int) -> Image.Image:
    """White on black, mode L, a border of black around it."""
    side = _MASTER * _SMOOTH
    if KIND_OF[thing] == "shape":
        large = _SHAPES[thing](side)
    else:
        large = _character(DIGITS.get(thing, thing), boldness, side)
    return large.resize((_MASTER, _MASTER), Image.Resampling.BOX)


def _character(character: str, boldness: int, side: int) -> Image.Image:
    large = Image.new("L", (side, side))
    font = ImageFont.load_default(size=side)
    stroke = side * boldness // 100
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    # Every character fills its square (M its width, others their height): none is told by its size.
    scale = _REACH * side / max(bottom - top, right - left)
    font = ImageFont.load_default(size=side * scale)
    draw = ImageDraw.Draw(large)
    left, top, right, bottom = draw.textbbox((0, 0), character, font=font, stroke_width=stroke)
    where = ((side - left - right) / 2, (side - top - bottom) / 2)
    draw.text(where, character, fill=255, font=font, stroke_width=stroke)
    return large


def _polygon(points: list[Point], side: int, holes: tuple[list[Point], ...] = ()) -> Image.Image:
    large = Image.new("L", (side, side))
    draw = ImageDraw.Draw(large)
    draw.polygon([_pixel(point, side) for point in points], fill=255)
    for hole in holes:
        draw.polygon([_pixel(point, side) for point in hole], fill=0)
    return large


def _discs(discs: list[tuple[float, float, float]], side: int) -> Image.Image:
    """The union of discs (x, y, radius)."""
    large = Image.new("L", (side, side))
    draw = ImageDraw.Draw(large)
    for x, y, radius in discs:
        corners = (_pixel((x - radius, y - radius), side), _pixel((x + radius, y + radius), side))
        draw.ellipse(corners, fill=255)
    return large


def _pixel(point: Point, side: int) -> Point:
    """From the square of -1 to 1 to pixels, with the border left free."""
    return (point[0] * _REACH + 1) / 2 * side, (point[1] * _REACH + 1) / 2 * side


def _around(count: int, radius: float, turn: float = 0.0) -> list[Point]:
    """Points on a circle, the first at the top."""
    angles = (2 * math.pi * (k / count + turn) for k in range(count))
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle in angles]


def _star(side: int) -> Image.Image:
    outer, inner = _around(5, 1.05), _around(5, 0.45, turn=0.1)
    return _polygon([point for pair in zip(outer, inner, strict=True) for point in pair], side)


def _heart(side: int) -> Image.Image:
    turns = (2 * math.pi * k / 200 for k in range(200))
    return _polygon(
        [
            (
                math.sin(t) ** 3,
                0.02 - (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) / 16.5,
            )
            for t in turns
        ],
        side,
    )


def _moon(side: int) -> Image.Image:
    full, shadow = _discs([(0, 0, 1)], side), _discs([(0.52, -0.12, 0.86)], side)
    return ImageChops.subtract(full, shadow)


def _ring(side: int) -> Image.Image:
    return ImageChops.subtract(_discs([(0, 0, 1)], side), _discs([(0, 0, 0.52)], side))


def _flower(side: int) -> Image.Image:
    petals = [(x, y, 0.42) for x, y in _around(5, 0.62)]
    return ImageChops.subtract(_discs(petals, side), _discs([(0, 0, 0.26)], side))


def _cloud(side: int) -> Image.Image:
    return _discs(
        [
            (-0.56, 0.22, 0.42),
            (0.58, 0.24, 0.4),
            (-0.12, -0.12, 0.52),
            (0.36, -0.02, 0.4),
            (0, 0.3, 0.36),
        ],
        side,
    )


def _house(side: int) -> Image.Image:
    walls = [(0.0, -1.0), (1.0, -0.1), (0.72, -0.1), (0.72, 1.0), (-0.72, 1.0), (-0.72, -0.1)]
    door = [(-0.22, 1.1), (-0.22, 0.3), (0.22, 0.3), (0.22, 1.1)]
    return _polygon([*walls, (-1.0, -0.1)], side, (door,))


_ARROW = [(1.0, 0.0), (0.1, -0.8), (0.1, -0.3), (-1.0, -0.3), (-1.0, 0.3), (0.1, 0.3), (0.1, 0.8)]


_SHAPES: Mapping[str, Callable[[int], Image.Image]] = {
    "circle": lambda side: _discs([(0, 0, 1)], side),
    "square": lambda side: _polygon(
        [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)], side
    ),
    "triangle": lambda side: _polygon([(0, -0.9), (1, 0.85), (-1, 0.85)], side),
    "star": _star,
    "heart": _heart,
    "diamond": lambda side: _polygon([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)], side),
    "moon": _moon,
    "arrow": lambda side: _polygon(_ARROW, side),
    "ring": _ring,
    "house": _house,
    "flower": _flower,
    "cloud": _cloud,
}
