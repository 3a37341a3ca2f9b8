"""Images put on a canvas, beyond the one way that frames share (`longva_ray.video.pillow_fit`).

    PIL image, grid or canvas -> grids_GYXC or canvas_YXC, uint8

`whole_image` makes one grid of an image of any mode, as of a frame. `released_letterbox` is the
letterbox that the images of the original checkpoints have, which is placed in another way.

Shape suffixes: G grids, Y and X pixel rows and columns, C channels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from longva_ray.video.canvas import Resize
from longva_ray.video.fitting import Fitting
from longva_ray.video.pillow_fit import fit_frame, fit_image
from longva_ray.vision.upright_image import upright_rgb


def whole_image(
    image: Image.Image, *, fitting: Fitting, grid_size: int, resize: Resize = "decoder"
) -> NDArray[np.uint8]:
    """An image fitted to one grid, whatever its size: grids_GYXC with G = 1.

    `resize` is what scales the frames that it stands among, so that it is cropped as they are.
    """
    rgb = upright_rgb(image)
    if resize == "pillow":
        return fit_frame(rgb, grid_size, fitting)[None]
    return fit_image(rgb, grid_size, grid_size, fitting)[None]


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
