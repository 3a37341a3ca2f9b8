"""Images and clips of the original checkpoints: the same pixels, visual tokens and logits as a
reference in plain Pillow, transformers' CLIP and Qwen2, and a few lines of torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, Qwen2Config
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.utils.constants import OPENAI_CLIP_MEAN

from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.video.fitting import LETTERBOXES, MEAN_COLOUR, Fitting, paste, place
from longva_ray.vision.fit_image import released_letterbox, whole_image
from longva_ray.vision.frame_encoder import FrameEncoder
from longva_ray.vision.unires import split_image

GRID = 56

IMAGE, VIDEO = 100, 101


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


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([GRID, 336]))
@settings(max_examples=60, deadline=None)
def test_frames_of_the_released_needle_test_are_padded_before_they_are_scaled(
    width: int, height: int, grid: int
) -> None:
    image = noise(width, height)
    expected = as_array(plain_pad(image).resize((grid, grid), Image.Resampling.BICUBIC))
    (fitted_YXC,) = whole_image(image, fitting="letterbox_mean", grid_size=grid)
    assert np.array_equal(fitted_YXC, expected)


def test_frames_and_images_have_the_same_bars_of_the_mean_colour() -> None:
    """The decoder scales frames before they are padded: only the edge of the picture differs."""
    assert tuple(int(255 * mean) for mean in OPENAI_CLIP_MEAN) == MEAN_COLOUR
    white = Image.new("RGB", (112, 56), (255, 255, 255))
    (image_YXC,) = whole_image(white, fitting="letterbox_mean", grid_size=GRID)
    placed = place(112, 56, GRID, GRID, "letterbox_mean")
    (frame_YXC,) = paste(
        np.full((1, 28, 56, 3), 255, np.uint8), placed, GRID, GRID, "letterbox_mean"
    )
    for fitted_YXC in (image_YXC, frame_YXC):
        assert (fitted_YXC[:12] == MEAN_COLOUR).all()
        assert (fitted_YXC[16:40] == 255).all()
        assert (fitted_YXC[44:] == MEAN_COLOUR).all()
    pixels_GCYX = FrameEncoder._normalise(torch.from_numpy(image_YXC[None, :12]))
    assert pixels_GCYX.abs().max() < 0.015


@pytest.mark.parametrize("size", [(500, 300), (300, 900), (56, 56)])
def test_images_of_released_checkpoints_have_black_bars_with_either_letterbox(
    size: tuple[int, int],
) -> None:
    black, mean = (
        split_image(noise(*size), rule="released", fitting=fitting, grid_size=GRID)
        for fitting in LETTERBOXES
    )
    assert np.array_equal(black, mean)


def test_an_image_too_large_to_be_padded_is_refused() -> None:
    with pytest.raises(ValueError, match="16385x1 image is too large for letterbox_mean"):
        whole_image(Image.new("RGB", (16385, 1)), fitting="letterbox_mean", grid_size=GRID)


@cache
def same_weights() -> tuple[LongVAForConditionalGeneration, CLIPVisionModel, nn.Module]:
    """Our model, and a whole CLIP of transformers with a projector of its weights.

    Its language model is transformers' own Qwen2, so that the reference uses it too.
    """
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=GRID, patch_size=14,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=99, hidden_size=24, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3,
    )  # fmt: skip
    clip = CLIPVisionModel(config).eval()
    projector = nn.Sequential(nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 24))
    whole = LongVAConfig(vision_config=config, text_config=text, grid_rule="released")
    whole.image_token_id, whole.video_token_id = IMAGE, VIDEO
    model = LongVAForConditionalGeneration(whole).eval()
    encoder = model.frame_encoder
    left_out = encoder.tower.clip.load_state_dict(clip.state_dict(), strict=False)
    assert not left_out.missing_keys
    encoder.projector.linear_1.load_state_dict(projector[0].state_dict())
    encoder.projector.linear_2.load_state_dict(projector[2].state_dict())
    return model, clip, projector


@torch.inference_mode()
def plain_tokens(
    pictures: Iterable[Image.Image], clip: CLIPVisionModel, projector: nn.Module
) -> Tensor:
    """tokens_SD: CLIP's own processor, layer -2 without CLS, projector, means of 2 x 2 patches."""
    processor = CLIPImageProcessor(
        size={"shortest_edge": GRID}, crop_size={"height": GRID, "width": GRID}
    )
    tokens = []
    for picture in pictures:
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        hidden = clip(pixels, output_hidden_states=True).hidden_states[-2]
        patches_yxD = projector(hidden[0, 1:]).unflatten(0, (4, 4))
        for y in (0, 2):
            for x in (0, 2):
                tokens.append(patches_yxD[y : y + 2, x : x + 2].mean((0, 1)))
    return torch.stack(tokens)


@torch.inference_mode()
def plain_logits(ids_T: Tensor, tokens_SD: Tensor, lm: nn.Module) -> Tensor:
    """logits_TV: visual tokens in the places of their placeholders, then the language model."""
    table = lm.get_input_embeddings().weight
    visual = iter(tokens_SD)
    embeds_TD = [next(visual) if i in (IMAGE, VIDEO) else table[i] for i in ids_T.tolist()]
    assert next(visual, None) is None
    return lm(inputs_embeds=torch.stack(embeds_TD)[None]).logits[0]


def prompt_around(placeholder: int, num_tokens: int) -> Tensor:
    return torch.tensor([7, 31, 5] + [placeholder] * num_tokens + [8, 52, 11, 64, 3])


@pytest.mark.parametrize("size", SIZES)
def test_logits_of_images_equal_those_of_the_reference(size: tuple[int, int]) -> None:
    model, clip, projector = same_weights()
    cut = model.config.grids.image(noise(*size))
    expected_SD = plain_tokens(plain_tiles(noise(*size), GRID), clip, projector)
    ids_T = prompt_around(IMAGE, len(expected_SD))
    with torch.inference_mode():
        tokens_SD = model.frame_encoder.encode_images(cut.grids_GYXC, None)
        pixels = torch.from_numpy(cut.grids_GYXC)
        logits_TV = model(input_ids=ids_T[None], pixel_values=pixels).logits[0]
    torch.testing.assert_close(tokens_SD, expected_SD, rtol=1e-5, atol=1e-5)
    expected_TV = plain_logits(ids_T, expected_SD, model.language_model)
    torch.testing.assert_close(logits_TV, expected_TV, rtol=1e-5, atol=1e-5)
    assert expected_SD.std() > 0.01
    assert expected_TV.std() > 0.01


def plain_pad(picture: Image.Image) -> Image.Image:
    """Padded to a square with CLIP's mean colour, as frames of the released needle test."""
    side = max(picture.size)
    colour = tuple(int(255 * mean) for mean in OPENAI_CLIP_MEAN)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


@pytest.mark.parametrize("fitting", ["center_crop", "letterbox_mean"])
@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4"])
def test_logits_of_a_clip_equal_those_of_the_reference(
    real_clip: Path, name: str, fitting: Fitting
) -> None:
    """As in the released chat, which crops, and the released needle test, which pads."""
    av = pytest.importorskip("av")
    from longva_ray.video.decode import decode_frames

    model, clip, projector = same_weights()
    path, indices = real_clip.with_name(name), np.arange(0, 120, 25)
    with av.open(str(path)) as container:
        decoded = [frame.to_image() for frame in container.decode(video=0)]
    pictures = [decoded[index] for index in indices]
    if fitting == "letterbox_mean":
        pictures = [plain_pad(picture) for picture in pictures]
    expected_SD = plain_tokens(pictures, clip, projector)
    (chunk,) = decode_frames(
        path, indices, size=GRID, fitting=fitting, resize="pillow", chunk_frames=len(indices)
    )
    ids_T = prompt_around(VIDEO, len(expected_SD))
    frames = torch.from_numpy(chunk.frames_FYXC)
    with torch.inference_mode():
        tokens_SD = model.frame_encoder.encode(chunk.frames_FYXC, micro_batch=2).flatten(0, 1)
        logits_TV = model(input_ids=ids_T[None], pixel_values_videos=frames).logits[0]
    torch.testing.assert_close(tokens_SD, expected_SD, rtol=1e-6, atol=1e-6)
    expected_TV = plain_logits(ids_T, expected_SD, model.language_model)
    torch.testing.assert_close(logits_TV, expected_TV, rtol=1e-5, atol=1e-5)
    assert expected_TV.std() > 0.01


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([GRID, 335]))
@example(640, 481, GRID)
@settings(max_examples=40, deadline=None)
def test_frames_that_pillow_scales_are_cropped_as_by_clip(
    width: int, height: int, grid: int
) -> None:
    image = noise(width, height)
    processor = CLIPImageProcessor(
        size={"shortest_edge": grid}, crop_size={"height": grid, "width": grid},
        do_rescale=False, do_normalize=False,
    )  # fmt: skip
    expected_CYX = processor(image, return_tensors="np")["pixel_values"][0]
    (cropped_YXC,) = whole_image(image, fitting="center_crop", grid_size=grid, resize="pillow")
    assert np.array_equal(cropped_YXC.transpose(2, 0, 1), expected_CYX)
