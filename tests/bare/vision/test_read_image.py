"""Which content is taken for an image, and what is said of the rest."""

from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, many_kinds, noise
from PIL import Image

from longva_ray.vision.read_image import ImageError, is_image, is_image_name, opened_image
from longva_ray.vision.upright_image import upright_rgb


@pytest.mark.parametrize("name", many_kinds())
def test_images_of_many_kinds(tmp_path: Path, name: str) -> None:
    content = many_kinds()[name]
    unnamed = tmp_path / "file"
    unnamed.write_bytes(content)
    assert is_image(unnamed)
    assert is_image_name(name.upper())
    with opened_image(content, name, max_pixels=130 * 70) as image:
        assert upright_rgb(image).size == ((70, 130) if name == "turned.jpg" else (130, 70))


@pytest.mark.parametrize("name", ["animated.gif", "pages.tif"])
def test_of_several_pictures_the_first_is_taken(name: str) -> None:
    with opened_image(many_kinds()[name], name) as image:
        first_YXC = np.asarray(upright_rgb(image)).astype(int)
    pictures = [np.asarray(noise(130, 70, seed)) for seed in (0, 3)]
    first, second = (np.abs(first_YXC - each_YXC).mean() for each_YXC in pictures)
    assert first < second / 2


PNG = encoded(noise(130, 70))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"these are notes", r"no image of a kind that is read .*PNG.* begins with b'these are no"),
        (b"", "it has 0 bytes"),
        (PNG[:5000], "it cannot be read: OSError"),
        (encoded(noise(60, 60), "EPS"), "no image of a kind"),
        (encoded(noise(300, 200)), "has 300x200 pixels; at most 20000 in all are read"),
    ],
)
def test_what_is_refused(content: bytes, told: str) -> None:
    with (
        pytest.raises(ImageError, match=told),
        opened_image(content, "it", max_pixels=20_000) as image,
    ):
        upright_rgb(image)


@pytest.mark.parametrize(
    "content",
    [
        b"P5\nwide 4 255\n",
        PNG[:11] + b"\x05" + PNG[12:],
        encoded(noise(9, 9), "AVIF").replace(b"pitm", b"none"),
    ],
)
def test_a_damaged_header_is_that_of_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert is_image(tmp_path / "file")
    with pytest.raises(ImageError, match="it cannot be read"), opened_image(content, "it"):
        pass


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="DecompressionBombError"), opened_image(PNG, "it"):
        pass


def test_names() -> None:
    assert not any(map(is_image_name, ["a.mp4", "a.txt", "a", "a.eps", "png"]))
