"""Images of the tiny world, whose questions have known answers, and images of many kinds."""

import base64
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longva_ray.tiny.images import draw_table
from longva_ray.tiny.world import Exchange, Scene, forms, needles_among_shapes

CELL = 56


def write_table(path: Path, *, seed: int = 2, count: int = 6, columns: int = 3) -> list[Scene]:
    """A table of scenes, one a grid of longva-tiny."""
    scenes = needles_among_shapes(random.Random(seed), count)
    rng = np.random.default_rng(seed)
    Image.fromarray(draw_table(scenes, columns=columns, cell=CELL, rng=rng)).save(path)
    return scenes


def exchanges_about(scenes: list[Scene]) -> list[Exchange]:
    """Questions and true answers, some of every form."""
    there, _ = forms(scenes, random.Random(2))
    return [exchange for found in there.values() for exchange in found]


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def data_url(content: bytes) -> str:
    """What a client sends; its type is not what decides."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def many_kinds() -> dict[str, bytes]:
    """Files of many formats and modes, by a name for each."""
    image = noise(130, 70)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn to the right
    deep_YX = np.random.default_rng(1).integers(0, 2**16, (70, 130), dtype=np.uint16)
    animation = {"save_all": True, "append_images": [noise(130, 70, seed=3)]}
    return {
        "rgb.png": encoded(image),
        "alpha.png": encoded(image.convert("RGBA")),
        "palette.png": encoded(image.convert("P")),
        "16-bits.png": encoded(Image.fromarray(deep_YX)),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=turned),
        "grey.webp": encoded(image.convert("L"), "WEBP"),
        "animated.gif": encoded(image, "GIF", **animation),
        "pages.tif": encoded(image, "TIFF", **animation),
    }
