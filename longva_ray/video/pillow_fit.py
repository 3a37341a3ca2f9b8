"""A picture put on a canvas of another shape by Pillow: images, needles, and frames on request.

    PIL image, canvas, fitting -> canvas_YXC uint8

`fit_image` places a picture by the rule of `fitting.py`, as frames that the decoder scales, and
both are bicubic. So an image is shown as such a frame would be, but for rounding. `fit_frame` is
for pictures among frames that Pillow scales, and has the pixels of the released code: its centre
crop is CLIP's, whose longer side is rounded down.

In both, `letterbox_mean` is padded to a square before it is scaled if the canvas is a square, as in
the released code. Frames that the decoder scales are put on that colour afterwards, so they differ
along the edge between picture and bar.

Shapes: Y rows, X columns, C colour channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from longva_ray.video.container import MAX_PIXELS, MAX_SIDE
from longva_ray.video.fitting import MEAN_COLOUR, Fitting, empty_canvas, paste, place

BICUBIC = Image.Resampling.BICUBIC


def fit_image(rgb: Image.Image, width: int, height: int, fitting: Fitting) -> npt.NDArray[np.uint8]:
    """An RGB picture scaled to where `place` puts it: -> height width C.

    Only what stays on the canvas is scaled: cropping a 1x4000 image to a square would otherwise
    scale it to a thousand times the canvas first.
    """
    if fitting == "letterbox_mean" and width == height:
        return np.asarray(padded_square(rgb).resize((width, height), BICUBIC))
    placed = place(rgb.width, rgb.height, width, height, fitting)
    left, top = max(0, placed.offset_x), max(0, placed.offset_y)
    right = min(width, placed.offset_x + placed.scaled_width)
    bottom = min(height, placed.offset_y + placed.scaled_height)
    to_source_x = rgb.width / placed.scaled_width
    to_source_y = rgb.height / placed.scaled_height
    visible = (
        (left - placed.offset_x) * to_source_x,
        (top - placed.offset_y) * to_source_y,
        min((right - placed.offset_x) * to_source_x, rgb.width),
        min((bottom - placed.offset_y) * to_source_y, rgb.height),
    )
    scaled = rgb.resize((right - left, bottom - top), BICUBIC, box=visible)
    canvas_YXC = empty_canvas(height, width, fitting)
    canvas_YXC[top:bottom, left:right] = np.asarray(scaled)
    return canvas_YXC


def fit_frame(
    rgb: Image.Image, size: int, fitting: Fitting, *, shown: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """An RGB picture on a square, as CLIP's preprocessing would scale it: -> size size C.

    `shown` is its width and height with square pixels, if its own are not.
    """
    width, height = shown = shown or rgb.size
    if fitting == "letterbox_mean":
        square = padded_square(rgb if rgb.size == shown else rgb.resize(shown, BICUBIC))
        return np.asarray(square.resize((size, size), BICUBIC))
    if fitting != "center_crop":
        placed = place(width, height, size, size, fitting)
        scaled = rgb.resize((placed.scaled_width, placed.scaled_height), BICUBIC)
        return paste(np.asarray(scaled)[None], placed, size, size, fitting)[0]
    # In floating point, as there.
    if width <= height:
        width, height = size, int(size * height / width)
    else:
        width, height = int(size * width / height), size
    if width * height > MAX_PIXELS:
        return fit_image(rgb, size, size, fitting)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = rgb.resize((width, height), BICUBIC)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def padded_square(rgb: Image.Image) -> Image.Image:
    """A picture in the middle of a square of CLIP's mean colour, as large as its longer side.

    Raises ValueError for a side beyond MAX_SIDE, whose square would not fit into memory.
    """
    side = max(rgb.size)
    if side > MAX_SIDE:
        raise ValueError(
            f"a {rgb.width}x{rgb.height} image is too large for letterbox_mean, which pads it to a "
            f"square first; want sides of at most {MAX_SIDE} pixels: scale it down"
        )
    square = Image.new("RGB", (side, side), MEAN_COLOUR)
    square.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
    return square
