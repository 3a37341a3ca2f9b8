"""The content of an image file -> a PIL image whose pixels may be read, or why not.

    bytes -> PIL image of any mode, not decoded yet

For images that come from anywhere: only formats on a list are opened, since Pillow starts other
programs for some of the rest, and one that is too large is refused by its header. What Pillow makes
of damage is one kind of error. An animation or a file of several pages is its first picture, as in
training. What it does not do: turn or convert images (`upright_image`), or cut them (`encoding`).
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are opened, where this Pillow has them."""


class ImageError(ValueError):
    """An image that cannot be used; the text names it and says what is wrong."""


def is_image(path: Path) -> bool:
    """Whether a file can be read and begins as an image does; its suffix does not matter."""
    try:
        with Image.open(path, formats=_formats()):
            return True
    except OSError:  # Pillow's error for what is no image is one, too
        return False
    except Exception:  # too large, or a damaged header: reading it tells which
        return True


def is_image_name(name: str) -> bool:
    """Whether a file of that name should be an image."""
    return Image.registered_extensions().get(Path(name).suffix.lower()) in FORMATS


@contextmanager
def opened_image(content: bytes, what: str, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """The image, for as long as it is worked on.

    Args:
        what: names the image in an error.
        max_pixels: most pixels; None leaves it to Pillow, which takes 178 million.

    Raises:
        ImageError: no image, one too large, or one that cannot be decoded or worked on.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise ImageError(
                    f"{what} has {image.width}x{image.height} pixels; at most {max_pixels} in all "
                    "are read: scale it down first"
                )
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{what} is no image of a kind that is read ({', '.join(FORMATS)}); it has "
            f"{len(content)} bytes and begins with {content[:16]!r}"
        ) from error
    except Exception as error:  # decoders raise errors of any kind for damaged files
        kind = type(error).__name__
        raise ImageError(f"{what} cannot be read: {kind}: {error}") from error


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
