"""An image put on a canvas of another shape: the one way, for images, needles and chat frames.

    PIL image, width, height, fitting -> canvas_YXC uint8

Where the image lies on the canvas is the rule of the video decoder (`longva_ray.video.fitting`),
and the scaling is bicubic as there, so that an image is shown as a frame of a video would be. Only
what stays on the canvas is scaled: cropping a 1x4000 image to a square would otherwise scale it to
a thousand times the canvas first.

Two letterboxes are not placed so, because the original checkpoints have others: their images
(`released_letterbox`), and their frames, padded to a square with CLIP's mean colour before they are
scaled. Only images and needles are; frames of a video are scaled by the decoder, then put on that
colour, so they differ along the edge between picture and bar.

Shape suffixes: G grids, Y and X pixel rows and columns, C channels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longva_ray.video.container import MAX_SIDE
from longva_ray.video.fitting import MEAN_COLOUR, Fitting, empty_canvas, place
from longva_ray.vision.upright_image import upright_rgb


def whole_image(image: Image.Image, *, fitting: Fitting, grid_size: int) -> NDArray[np.uint8]:
    """An image fitted to one grid, whatever its size: grids_GYXC with G = 1."""
    return fit_image(upright_rgb(image), grid_size, grid_size, fitting)[None]


def fit_image(rgb: Image.Image, width: int, height: int, fitting: Fitting) -> NDArray[np.uint8]:
    """The visible part of an RGB image, scaled to where `place` puts it on the canvas.

    A letterbox of the mean colour on a square canvas is the released one: see `padded_square`.
    """
    if fitting == "letterbox_mean" and width == height:
        return np.asarray(padded_square(rgb).resize((width, height), Image.Resampling.BICUBIC))
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
    scaled = rgb.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=visible)
    canvas_YXC = empty_canvas(height, width, fitting)
    canvas_YXC[top:bottom, left:right] = np.asarray(scaled)
    return canvas_YXC


def padded_square(rgb: Image.Image) -> Image.Image:
    """An image in the middle of a square of CLIP's mean colour, as large as its longer side.

    Raises:
        ValueError: a side beyond MAX_SIDE, whose square would not fit into memory.
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


def released_letterbox(rgb: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """The letterbox of the released code, pixel for pixel: its free side is rounded up.

    In floating point, as there: for a few sizes h * (W / w) is above h * W / w, and a whole number
    is rounded up to the next.
    """
    scale_x, scale_y = width / rgb.width, height / rgb.height
    if scale_x < scale_y:
        scaled_width, scaled_height = width, min(math.ceil(rgb.height * scale_x), height)
    else:
        scaled_width, scaled_height = min(math.ceil(rgb.width * scale_y), width), height
    scaled = rgb.resize((scaled_width, scaled_height), Image.Resampling.BICUBIC)
    left, top = (width - scaled_width) // 2, (height - scaled_height) // 2
    canvas_YXC = np.zeros((height, width, 3), dtype=np.uint8)
    canvas_YXC[top : top + scaled_height, left : left + scaled_width] = np.asarray(scaled)
    return canvas_YXC
