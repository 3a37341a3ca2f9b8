"""AnyRes against plain loops, and against transformers' own LLaVA-NeXT."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaNextModel

from longva_ray.vision.anyres import NEWLINE, image_sources
from longva_ray.vision.encoding import Cut, Encoding, GridSettings
from longva_ray.vision.frame_encoder import FrameEncoder

SHAPES = [(1, 1), (1, 4), (4, 1), (2, 2), (3, 1), (1, 3), (2, 1)]
"""Columns and rows."""


GRIDS = GridSettings(
    grid_size=56, tokens_per_grid=4, max_grids=4, grid_rule="paper",
    frame_fitting="letterbox", encoding="anyres",
)  # fmt: skip


def build_encoder(encoding: Encoding = "anyres") -> FrameEncoder:
    """Grids of 56 pixels, 4 x 4 patches, 4 tokens after pooling."""
    torch.manual_seed(0)
    clip = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=56, patch_size=14,
    )  # fmt: skip
    encoder = FrameEncoder(
        clip, width=24, feature_layer=-2, pool_stride=2, hidden_act="gelu", encoding=encoding
    )
    return encoder.eval()


def cut_image(width: int, height: int) -> tuple[Cut, Tensor]:
    """An image of noise as AnyRes, and its sources for the encoder."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cut = GRIDS.image(Image.fromarray(pixels))
    return cut, torch.from_numpy(cut.source_S2)


def plain_order(columns: int, rows: int, side: int) -> list[tuple[int, int]]:
    """Grid and patch of every token of an image without bars, one after the other."""
    order = [(0, patch) for patch in range(side * side)]
    for grid_row in range(rows):
        for y in range(side):
            for grid_column in range(columns):
                for x in range(side):
                    order.append((1 + grid_row * columns + grid_column, y * side + x))
            order.append((NEWLINE, 0))
    return order


@pytest.mark.parametrize(("columns", "rows"), SHAPES)
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_order_of_tokens(columns: int, rows: int, side: int) -> None:
    source_S2 = image_sources(
        columns * 10, rows * 10, columns=columns, rows=rows, fitting="letterbox", side=side,
        first_patch=0,
    )  # fmt: skip
    assert [tuple(source) for source in source_S2.tolist()] == plain_order(columns, rows, side)


def llava_next(
    patches_GPD: Tensor, newline_D: Tensor, width: int, height: int, columns: int, rows: int
) -> Tensor:
    """The same by transformers: tokens_SD of a base image and its grids."""
    side = int(patches_GPD.shape[1] ** 0.5)
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=side, patch_size=1),
        image_grid_pinpoints=[(rows * side, columns * side)],
    )
    (tokens_SD,), _ = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config), [patches_GPD], [(height, width)], "default", newline_D
    )
    return tokens_SD


pixels = st.integers(1, 3000)


@given(pixels, pixels, st.sampled_from(SHAPES), st.integers(1, 8))
@settings(deadline=None)
def test_equals_llava_next_of_transformers_bars_and_all(
    width: int, height: int, shape: tuple[int, int], side: int
) -> None:
    columns, rows = shape
    patches_GPD = torch.randn(1 + columns * rows, side * side, 3)
    newline_D = torch.randn(3)
    source_S2 = image_sources(
        width, height, columns=columns, rows=rows, fitting="letterbox", side=side, first_patch=0
    )
    tokens = [newline_D if g == NEWLINE else patches_GPD[g, p] for g, p in source_S2.tolist()]
    expected = llava_next(patches_GPD, newline_D, width, height, columns, rows)
    assert torch.equal(torch.stack(tokens), expected)


@pytest.mark.parametrize(("width", "height"), [(56, 56), (224, 56), (112, 112), (170, 90), (9, 31)])
def test_encoded_images_equal_llava_next(width: int, height: int) -> None:
    encoder = build_encoder()
    cut, source_S2 = cut_image(width, height)
    columns, rows = max(1, width // 56), max(1, height // 56)
    with torch.no_grad():
        tokens_SD = encoder.encode_images(cut.grids_GYXC, source_S2)
        pixels = encoder._normalise(torch.from_numpy(cut.grids_GYXC))
        patches_GPD = encoder.projector(encoder.tower(pixels))
        newline_D = encoder.projector.newline.weight
        expected = llava_next(patches_GPD, newline_D, width, height, columns, rows)
        assert tokens_SD.shape == (len(cut.source_S2), 24)
        assert torch.equal(tokens_SD, expected)
        in_pairs = encoder.encode_images(cut.grids_GYXC, source_S2, micro_batch=2)
    torch.testing.assert_close(in_pairs, expected, rtol=1e-4, atol=1e-6)


def test_several_images_and_videos_in_one_batch() -> None:
    """What a training row holds: each token is the one it is alone."""
    encoder = build_encoder()
    image, source_S2 = cut_image(112, 56)
    video = GRIDS.pooled(np.random.default_rng(1).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8))
    video_S2 = torch.from_numpy(video.source_S2) + torch.tensor([len(image.grids_GYXC), 0])
    grids_GYXC = torch.from_numpy(np.concatenate([image.grids_GYXC, video.grids_GYXC]))
    with torch.no_grad():
        tokens_SD = encoder.arrange(
            encoder.grid_tokens(grids_GYXC), torch.cat([source_S2, video_S2])
        )
        expected = torch.cat(
            [
                encoder.encode_images(image.grids_GYXC, source_S2),
                encoder(video.grids_GYXC).flatten(0, 1),
            ]
        )
    torch.testing.assert_close(tokens_SD, expected, rtol=1e-4, atol=1e-6)


def test_frames_have_the_tokens_of_unires() -> None:
    anyres, unires = build_encoder(), build_encoder("unires")
    missing = unires.load_state_dict(anyres.state_dict(), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == ([], ["projector.newline.weight"])
    frames = np.random.default_rng(2).integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)
    tokens_GQD = anyres.encode(frames, micro_batch=2)
    assert tokens_GQD.shape == (3, 4, 24)
    assert torch.equal(tokens_GQD, unires.encode(frames, micro_batch=2))


def test_gradients_reach_newline_projector_and_tower() -> None:
    encoder = build_encoder().train()
    cut, source_S2 = cut_image(112, 56)
    tokens_SD = encoder.encode_images(cut.grids_GYXC, source_S2)
    is_newline = source_S2[:, 0] == NEWLINE
    weights_SD = torch.randn_like(tokens_SD)
    (tokens_SD * weights_SD).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
    assert int(is_newline.sum()) == 4
    torch.testing.assert_close(encoder.projector.newline.weight.grad, weights_SD[is_newline].sum(0))


def test_no_sources_no_image() -> None:
    cut, _ = cut_image(112, 56)
    with pytest.raises(ValueError, match="want its image_sources"):
        build_encoder().encode_images(cut.grids_GYXC, None)
    tokens_SD = build_encoder("unires").encode_images(cut.grids_GYXC, None)
    assert tokens_SD.shape == (3 * 4, 24)
