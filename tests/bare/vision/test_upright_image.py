"""Images of any depth and any EXIF become RGB of 8 bits a channel, the right way up."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from longva_ray.vision.unires import split_image
from longva_ray.vision.upright_image import upright_rgb

RAMP_YX = np.linspace(0, 255, 64).round().reshape(8, 8).astype(np.uint8)
DEEP_YX = RAMP_YX.astype(np.uint16) * 257
"""The same picture in 16 bits."""


def saved(image: Image.Image, kind: str, **settings: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return Image.open(file)


def tiff(bits: int, data: bytes, *, white_is_zero: bool, order: str = "<") -> Image.Image:
    """A grey image of 8 x 8, uncompressed."""
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 0, 277: 1}
    tags |= {278: 8, 279: len(data)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    entries = [struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return Image.open(io.BytesIO(head + b"".join(entries) + b"\0\0\0\0" + data))


def assert_shows_ramp(image: Image.Image) -> None:
    shown_YXC = np.asarray(upright_rgb(image))
    assert shown_YXC.dtype == np.uint8
    assert np.array_equal(shown_YXC, np.stack([RAMP_YX] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_show_what_8_bits_show(kind: str) -> None:
    settings = {"irreversible": False} if kind == "JPEG2000" else {}
    assert_shows_ramp(saved(Image.fromarray(DEEP_YX), kind, **settings))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_every_order_of_bytes(mode: str) -> None:
    stored_YX = DEEP_YX.astype(">u2" if mode == "I;16B" else "<u2")
    assert_shows_ramp(Image.frombuffer(mode, (8, 8), stored_YX.tobytes(), "raw", mode, 0, 1))


def test_tiff_says_what_is_white() -> None:
    for order in "<>":
        stored_YX = DEEP_YX.astype(order + "u2")
        assert_shows_ramp(tiff(16, stored_YX.tobytes(), white_is_zero=False, order=order))
    inverted_YX = (65535 - DEEP_YX).astype("<u2")
    assert_shows_ramp(tiff(16, inverted_YX.tobytes(), white_is_zero=True))
    assert_shows_ramp(tiff(12, packed_12_bits(RAMP_YX), white_is_zero=False))


def packed_12_bits(values_YX: npt.NDArray[np.uint8]) -> bytes:
    """Values scaled to 12 bits, two in three bytes."""
    bits = "".join(f"{round(value / 255 * 4095):012b}" for value in values_YX.ravel().tolist())
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_within_the_range_of_8_are_taken_as_they_are(dtype: type) -> None:
    assert_shows_ramp(Image.fromarray(RAMP_YX.astype(dtype)))
    assert_shows_ramp(saved(Image.fromarray(RAMP_YX.astype(dtype)), "TIFF"))


@pytest.mark.parametrize(
    ("values_YX", "mode"),
    [
        (DEEP_YX.astype(np.int32), "I"),
        (RAMP_YX.astype(np.int32) - 128, "I"),
        (RAMP_YX.astype(np.float32) / 255, "F"),
        (DEEP_YX.astype(np.float32), "F"),
        (np.full((8, 8), np.nan, np.float32), "F"),
    ],
)
def test_32_bits_without_a_known_white_are_refused_by_name(
    values_YX: npt.NDArray[Any], mode: str
) -> None:
    for image in (Image.fromarray(values_YX), saved(Image.fromarray(values_YX), "TIFF")):
        with pytest.raises(ValueError, match=f"mode {mode} .*not say what is white; want 8 or 16"):
            upright_rgb(image)


def exif_with_text_as_resolution(orientation: int) -> bytes:
    entries = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", 0x11A, 2, 8, 8 + 2 + 2 * 12 + 4)  # XResolution, as ASCII
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0\0\0\0" + b"72 dpi.\0"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "quadrant"),
    [(1, "00"), (2, "01"), (3, "11"), (4, "10"), (5, "00"), (6, "01"), (7, "11"), (8, "10")],
)
def test_orientation_is_used_beside_malformed_entries(
    kind: str, orientation: int, quadrant: str
) -> None:
    """The upper left quadrant is stored white; the name says row and column where it is seen."""
    pixels_YX = np.zeros((32, 64), np.uint8)
    pixels_YX[:16, :32] = 255
    exif = exif_with_text_as_resolution(orientation)
    image = saved(Image.fromarray(pixels_YX).convert("RGB"), kind, exif=exif)
    shown = upright_rgb(image)
    assert shown.size == ((64, 32) if orientation < 5 else (32, 64))
    quarters = np.asarray(shown.resize((2, 2), Image.Resampling.BOX))[..., 0] > 127
    assert quarters.sum() == 1
    assert quarters[int(quadrant[0]), int(quadrant[1])]
    assert np.array_equal(upright_rgb(shown), shown), "an image is turned once"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_exif_that_is_none_does_no_harm(kind: str) -> None:
    gray_YXC = np.full((8, 16, 3), 100, np.uint8)
    image = saved(Image.fromarray(gray_YXC), kind, exif=b"Exif\0\0no header of TIFF")
    assert np.array_equal(upright_rgb(image), gray_YXC)


def test_16_bits_are_turned_too() -> None:
    deep_YX = np.zeros((8, 16), np.uint16)
    deep_YX[:, 8:] = 65535
    image = Image.fromarray(deep_YX)
    image.getexif()[0x0112] = 6
    grids_GYXC = split_image(image, rule="paper", fitting="squash", grid_size=8)
    assert grids_GYXC[0].max() == 0
    assert grids_GYXC[1].min() == 255
