"""One fitting for images and frames: the same place on the canvas, and the same pixels but for the
rounding of two scalers."""

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from longva_ray.video.fitting import Fitting, paste, place
from longva_ray.video.pillow_fit import fit_image
from longva_ray.vision.fit_image import whole_image

FITTINGS: tuple[Fitting, ...] = get_args(Fitting)


SIZES = [(37, 91), (91, 37), (57, 56), (55, 301), (640, 481), (1, 1)]


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """Waves Y X C, in which a shift by a pixel would be seen."""
    y, x = np.mgrid[:height, :width]
    waves = (127 + 100 * np.sin(x / 7 + y / 11), 127 + 100 * np.cos(x / 5), x * 255 / width)
    return np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)


def as_video_frame(image_YXC: NDArray[np.uint8], size: int, fitting: Fitting) -> Any:
    """What the decoder's scaler makes of the same picture (`video.canvas`)."""
    av = pytest.importorskip("av")
    from av.video.reformatter import Interpolation, VideoReformatter

    height, width, _ = image_YXC.shape
    placed = place(width, height, size, size, fitting)
    frame = av.VideoFrame.from_ndarray(image_YXC, format="rgb24")
    scaled_YXC = VideoReformatter().reformat(
        frame,
        width=placed.scaled_width,
        height=placed.scaled_height,
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
    )
    return paste(scaled_YXC.to_ndarray()[None], placed, size, size, fitting)[0]


@pytest.mark.parametrize("fitting", ["letterbox", "center_crop", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_shown_as_a_frame_of_a_video_would_be(
    size: tuple[int, int], fitting: Fitting
) -> None:
    image_YXC = smooth(*size)
    fitted_GYXC = whole_image(Image.fromarray(image_YXC), fitting=fitting, grid_size=56)
    assert fitted_GYXC.shape == (1, 56, 56, 3)
    frame_YXC = as_video_frame(image_YXC, 56, fitting)
    assert np.array_equal(fitted_GYXC[0].any(-1).any(-1), frame_YXC.any(-1).any(-1))
    difference_YXC = np.abs(fitted_GYXC[0].astype(int) - frame_YXC)
    assert difference_YXC.mean() < 1.5
    assert difference_YXC.max() <= 10


@pytest.mark.parametrize("fitting", FITTINGS)
def test_what_has_the_size_of_the_canvas_is_kept_to_the_bit(fitting: Fitting) -> None:
    image_YXC = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    fitted_GYXC = whole_image(Image.fromarray(image_YXC), fitting=fitting, grid_size=56)
    assert np.array_equal(fitted_GYXC[0], image_YXC)


def test_bars_and_crops_lie_where_frames_have_them() -> None:
    wide = Image.fromarray(np.full((20, 40, 3), 255, np.uint8))
    letterbox_YXC = fit_image(wide, 56, 56, "letterbox")
    assert letterbox_YXC.shape == (56, 56, 3)
    assert (letterbox_YXC[:14] == 0).all()
    assert (letterbox_YXC[14:42] == 255).all()
    assert (letterbox_YXC[42:] == 0).all()
    assert (fit_image(wide, 56, 56, "center_crop") == 255).all()
    assert (fit_image(wide, 56, 56, "squash") == 255).all()


@pytest.mark.parametrize("fitting", FITTINGS)
@pytest.mark.parametrize("size", [(4, 4000), (4000, 4), (1, 4000)])
def test_no_image_is_scaled_beyond_the_canvas(
    size: tuple[int, int], fitting: Fitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def record(image: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        scaled.append(size)
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", record)
    image = Image.new("RGB", size, (9, 9, 9))
    canvas_YXC = fit_image(image, 336, 336, fitting)
    assert fitting == "letterbox_mean" or canvas_YXC.max() == 9
    assert len(scaled) == 1
    assert max(scaled[0]) <= 336
