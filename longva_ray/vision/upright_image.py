"""An image file's picture as people see it: RGB, 8 bits a channel, the right way up.

    PIL image of any mode -> PIL image, RGB

Images of more than 8 bits are scaled where the file says what is white: 16 bits, and TIFF's 12.
Pillow alone would clip them, which makes nearly all of them white. Integers of 32 bits and floats
do not say what is white, so they are refused unless they already lie between 0 and 255. Alpha is
dropped, not blended. What it does not do: tone mapping, colour profiles.

Shape suffixes: Y and X pixel rows and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, turned as its EXIF says; alpha is dropped, not blended.

    Only the orientation is read from the EXIF. Other entries may be malformed, as a resolution
    that is text, or all of it.

    Raises:
        ValueError: the values of a 32-bit image do not say what is white.
    """
    image.load()  # some decoders know the orientation only then
    turned = _TRANSPOSED.get(_orientation(image))
    rgb = _with_8_bits(image).convert("RGB")
    if turned is not None:
        rgb = rgb.transpose(turned)
    rgb.info.clear()  # the orientation is used up
    return rgb


def _orientation(image: Image.Image) -> int:
    """What the EXIF says; 1, as it is stored, without one."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except SyntaxError:
        # Not an EXIF at all. Pillow drops such a block from a JPEG by itself.
        return 1


def _with_8_bits(image: Image.Image) -> Image.Image:
    """The same picture with 8 bits a channel."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_scaled(np.asarray(image), *_range_of_16_bits(image)))
    if image.mode == "I" and image.format == "PPM":  # Pillow scales every PPM to 16 bits
        return Image.fromarray(_scaled(np.asarray(image), black=0, white=65535))
    if image.mode in ("I", "F"):
        return Image.fromarray(_taken_as_8_bits(image))
    return image


def _range_of_16_bits(image: Image.Image) -> tuple[int, int]:
    """The values of black and white."""
    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    white = 2**bits - 1
    return (white, 0) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else (0, white)


def _scaled(values_YX: NDArray[Any], black: int, white: int) -> NDArray[np.uint8]:
    share_YX = (values_YX.astype(np.float32) - black) / (white - black)
    return np.rint(share_YX * 255).clip(0, 255).astype(np.uint8)


def _taken_as_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    values_YX = np.asarray(image)
    low, high = values_YX.min(), values_YX.max()
    # A float image of 0 to 1 may be a whole picture or a nearly black one.
    is_8_bits = low >= 0 and high <= 255 and not (image.mode == "F" and 0 < high <= 1)
    if not is_8_bits:
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(
            f"the image has mode {image.mode} ({kind}) with values from {low} to {high}, which do "
            "not say what is white; want 8 or 16 bits a channel, or values from 0 to 255; save it "
            "as a PNG of 8 or 16 bits"
        )
    return values_YX.astype(np.uint8)
