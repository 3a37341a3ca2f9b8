"""Images of the original checkpoints: the same pixels and the same visual tokens as a reference in
plain Pillow, transformers' CLIP and a few lines of torch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

from longva_ray.vision.encoding import GridSettings
from longva_ray.vision.fit_image import released_letterbox
from longva_ray.vision.frame_encoder import FrameEncoder
from longva_ray.vision.unires import split_image

GRID = 56


SIZES = [
    (1000, 911), (2500, 1999), (120, 700), (4000, 250), (1234, 567), (640, 480), (1920, 1080),
    (336, 336), (57, 56), (1, 1), (3, 900), (50, 75),
]  # fmt: skip


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def plain_letterbox(image: Image.Image, width: int, height: int) -> Image.Image:
    """By transformers' sizes and Pillow's `resize` and `paste`."""
    scaled_height, scaled_width = get_patch_output_size(
        np.asarray(image), (height, width), input_data_format="channels_last"
    )
    canvas = Image.new("RGB", (width, height))
    place = ((width - scaled_width) // 2, (height - scaled_height) // 2)
    canvas.paste(image.resize((scaled_width, scaled_height)), place)
    return canvas


def plain_tiles(image: Image.Image, grid: int, max_grids: int = 49) -> list[Image.Image]:
    """The best of all canvases by transformers, letterboxed, and cut in raster order."""
    numbers = range(1, max_grids + 1)
    canvases = [(y * grid, x * grid) for x in numbers for y in numbers if 2 <= x * y <= max_grids]
    height, width = select_best_resolution((image.height, image.width), canvases)
    canvas = plain_letterbox(image, width, height)
    return [
        canvas.crop((x, y, x + grid, y + grid))
        for y in range(0, height, grid)
        for x in range(0, width, grid)
    ]


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image, dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "canvas", "scaled", "offset"),
    [
        ((1000, 911), (1008, 1008), (1008, 919), (0, 44)),
        ((2500, 1999), (2688, 2016), (2522, 2016), (83, 0)),
        ((120, 700), (336, 1008), (173, 1008), (81, 0)),
        # h * (W / w) is above 1024 in floating point, and the released code rounds it up.
        ((656, 1968), (672, 336), (113, 336), (279, 0)),
    ],
)
def test_sizes_computed_with_the_released_code(
    size: tuple[int, int], canvas: tuple[int, int], scaled: tuple[int, int], offset: tuple[int, int]
) -> None:
    white_YX = released_letterbox(Image.new("RGB", size, (255, 255, 255)), *canvas)[..., 0] == 255
    (top, left), (bottom, right) = np.argwhere(white_YX).min(0), np.argwhere(white_YX).max(0)
    assert (left, top) == offset
    assert (right + 1 - left, bottom + 1 - top) == scaled
    expected = as_array(plain_letterbox(noise(*size), *canvas))
    assert np.array_equal(released_letterbox(noise(*size), *canvas), expected)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 7), st.integers(1, 7))
@example(50, 75, 12, 6)
@settings(max_examples=100, deadline=None)
def test_letterbox_equals_pillow_pixel_for_pixel(
    width: int, height: int, columns: int, rows: int
) -> None:
    image, canvas = noise(width, height), (columns * GRID, rows * GRID)
    expected = as_array(plain_letterbox(image, *canvas))
    assert np.array_equal(released_letterbox(image, *canvas), expected)


@pytest.mark.parametrize("size", SIZES)
def test_grids_equal_those_of_the_released_rule(size: tuple[int, int]) -> None:
    image = noise(*size)
    grids_GYXC = split_image(image, rule="released", fitting="letterbox", grid_size=GRID)
    expected = [as_array(tile) for tile in plain_tiles(image, GRID)]
    assert np.array_equal(grids_GYXC, np.stack(expected))


def test_grids_at_the_resolution_of_the_paper() -> None:
    image = noise(1000, 911)
    grids_GYXC = split_image(image, rule="released", fitting="letterbox")
    expected = [as_array(tile) for tile in plain_tiles(image, 336)]
    assert np.array_equal(grids_GYXC, np.stack(expected))


@cache
def same_weights() -> tuple[FrameEncoder, CLIPVisionModel, nn.Module]:
    """Our encoder, and a whole CLIP of transformers with a projector of its weights."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=GRID, patch_size=14,
    )  # fmt: skip
    clip = CLIPVisionModel(config).eval()
    projector = nn.Sequential(nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 24))
    encoder = FrameEncoder(config, width=24, feature_layer=-2, pool_stride=2, hidden_act="gelu")
    left_out = encoder.tower.clip.load_state_dict(clip.state_dict(), strict=False)
    assert not left_out.missing_keys
    encoder.projector.linear_1.load_state_dict(projector[0].state_dict())
    encoder.projector.linear_2.load_state_dict(projector[2].state_dict())
    return encoder.eval(), clip, projector


@torch.inference_mode()
def plain_tokens(image: Image.Image, clip: CLIPVisionModel, projector: nn.Module) -> Tensor:
    """tokens_SD: CLIP's own processor, layer -2 without CLS, projector, means of 2 x 2 patches."""
    processor = CLIPImageProcessor(
        size={"shortest_edge": GRID}, crop_size={"height": GRID, "width": GRID}
    )
    tokens = []
    for tile in plain_tiles(image, GRID):
        pixels = processor(tile, return_tensors="pt")["pixel_values"]
        hidden = clip(pixels, output_hidden_states=True).hidden_states[-2]
        patches_yxD = projector(hidden[0, 1:]).unflatten(0, (4, 4))
        for y in (0, 2):
            for x in (0, 2):
                tokens.append(patches_yxD[y : y + 2, x : x + 2].mean((0, 1)))
    return torch.stack(tokens)


@pytest.mark.parametrize("size", SIZES)
def test_visual_tokens_equal_those_of_the_reference(size: tuple[int, int]) -> None:
    encoder, clip, projector = same_weights()
    grids = GridSettings(
        grid_size=GRID, tokens_per_grid=4, max_grids=49, grid_rule="released",
        frame_fitting="letterbox",
    )  # fmt: skip
    cut = grids.image(noise(*size))
    with torch.inference_mode():
        tokens_SD = encoder.encode_images(cut.grids_GYXC, None)
    expected_SD = plain_tokens(noise(*size), clip, projector)
    torch.testing.assert_close(tokens_SD, expected_SD, rtol=1e-5, atol=1e-5)
    assert expected_SD.std() > 0.01
