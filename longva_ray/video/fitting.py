"""How a picture of any shape is put on a canvas of a fixed shape: the geometry shared by video
frames and images.

(width, height) and a fitting -> where the scaled picture lies on the canvas; scaled frames F Y X C
-> canvas F Y X C.

Four fittings, one choice for the whole project, recorded in every artifact:

    letterbox        all of the picture, its shape kept, black bars around it
    letterbox_mean   the same with bars of CLIP's mean colour, which the encoder sees as zeros
    center_crop      the canvas is filled, the shape kept, the sides cut off: 44% of a 16:9 frame
    squash           all of the picture stretched to the canvas, its shape lost

The released code uses letterbox_mean for its haystack, and crops in chat and Video-MME; so does the
recipe longva_7b.

Integers only, no scaling of pixels: that is done by the decoder (`canvas.py`) or by Pillow
(`pillow_fit.py`).

Shapes: F frames, Y rows, X columns, C colour channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Fitting = Literal["letterbox", "letterbox_mean", "center_crop", "squash"]


FITTINGS: tuple[Fitting, ...] = get_args(Fitting)


LETTERBOXES: tuple[Fitting, ...] = ("letterbox", "letterbox_mean")


MEAN_COLOUR = (122, 116, 104)
"""int(255 * mean) of CLIP's normalisation, for red, green and blue."""


def check_fitting(name: str, fitting: str | None) -> None:
    """Raise ValueError for the value of a setting that is no fitting; None is none."""
    if fitting is not None and fitting not in FITTINGS:
        raise ValueError(f"{name} is {fitting!r}; wanted one of {FITTINGS}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where the scaled picture lies on the canvas, in pixels; a negative offset is cut off."""

    scaled_width: int
    scaled_height: int
    offset_x: int
    offset_y: int


def place(
    width: int, height: int, target_width: int, target_height: int, fitting: Fitting
) -> Placement:
    """Size and place of a `width` x `height` picture on a `target_width` x `target_height` canvas.

    A letterbox never exceeds the canvas and center_crop always covers it; a scaled side is at least
    1 pixel. When the space left over (or cut off) is odd, the extra pixel is on the right or at the
    bottom.

    Raises ValueError for a side below 1 or an unknown fitting.
    """
    if min(width, height, target_width, target_height) < 1:
        raise ValueError(
            f"cannot fit a {width}x{height} picture on a {target_width}x{target_height} canvas; "
            "wanted sides of at least 1 pixel"
        )
    check_fitting("fitting", fitting)
    scaled_width, scaled_height = target_width, target_height
    # Compared as products, so that no rounding decides which side is the tight one.
    is_wider = width * target_height > height * target_width
    if fitting != "squash":
        if is_wider == (fitting in LETTERBOXES):
            scaled_height = max(1, _round_ratio(height * target_width, width))
        else:
            scaled_width = max(1, _round_ratio(width * target_height, height))
    return Placement(
        scaled_width=scaled_width,
        scaled_height=scaled_height,
        offset_x=_centre(target_width, scaled_width),
        offset_y=_centre(target_height, scaled_height),
    )


def empty_canvas(height: int, width: int, fitting: Fitting) -> npt.NDArray[np.uint8]:
    """A canvas Y X C in the colour that the bars of `fitting` have."""
    canvas_YXC = np.zeros((height, width, 3), dtype=np.uint8)
    if fitting == "letterbox_mean":
        canvas_YXC[:] = MEAN_COLOUR
    return canvas_YXC


def paste(
    scaled_FYXC: npt.NDArray[np.uint8],
    placement: Placement,
    target_height: int,
    target_width: int,
    fitting: Fitting,
) -> npt.NDArray[np.uint8]:
    """Put scaled frames where `placement` of `fitting` says: F Y X C -> F target_height
    target_width C.

    Frames that already have the canvas' shape are returned as they are, without a copy.
    """
    num_frames, height, width, _ = scaled_FYXC.shape
    assert (height, width) == (placement.scaled_height, placement.scaled_width)
    if (height, width) == (target_height, target_width):
        return scaled_FYXC
    top, left = max(0, placement.offset_y), max(0, placement.offset_x)
    cut_top, cut_left = max(0, -placement.offset_y), max(0, -placement.offset_x)
    rows = min(height - cut_top, target_height - top)
    columns = min(width - cut_left, target_width - left)
    canvas_FYXC = np.tile(empty_canvas(target_height, target_width, fitting), (num_frames, 1, 1, 1))
    canvas_FYXC[:, top : top + rows, left : left + columns] = scaled_FYXC[
        :, cut_top : cut_top + rows, cut_left : cut_left + columns
    ]
    return canvas_FYXC


def _round_ratio(numerator: int, denominator: int) -> int:
    """numerator / denominator rounded to the nearest integer, halves up, exact for any size."""
    return (2 * numerator + denominator) // (2 * denominator)


def _centre(target: int, scaled: int) -> int:
    """Offset that centres `scaled` pixels on `target`, rounded towards zero."""
    return (target - scaled) // 2 if scaled <= target else -((scaled - target) // 2)
