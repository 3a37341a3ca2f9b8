"""An image put on a canvas of another shape: the one way, for images, needles and chat frames.

    PIL image, width, height, fitting -> canvas_YXC uint8

Where the image lies on the canvas is the rule of the video decoder (`longva_ray.video.fitting`),
and the scaling is bicubic as there, so that an image is shown as a frame of a video would be. Only
what stays on the canvas is scaled: cropping a 1x4000 image to a square would otherwise scale it to
a thousand times the canvas first.

Images of the original checkpoints are the exception: `released_letterbox` is their letterbox.

Shape suffixes: G grids, Y and X pixel rows and columns, C channels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longva_ray.video.fitting import Fitting, place
from longva_ray.vision.upright_image import upright_rgb


def whole_image(image: Image.Image, *, fitting: Fitting, grid_size: int) -> NDArray[np.uint8]:
    """An image fitted to one grid, whatever its size: grids_GYXC with G = 1."""
    return fit_image(upright_rgb(image), grid_size, grid_size, fitting)[None]


def fit_image(rgb: Image.Image, width: int, height: int, fitting: Fitting) -> NDArray[np.uint8]:
    """The visible part of an RGB image, scaled to where `place` puts it on a black canvas."""
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
    canvas_YXC = np.zeros((height, width, 3), dtype=np.uint8)
    canvas_YXC[top:bottom, left:right] = np.asarray(scaled)
    return canvas_YXC


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
