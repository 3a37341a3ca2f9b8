"""The frame encoder against transformers' CLIP and the plainest possible projector and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from longva_ray.vision import projector
from longva_ray.vision.clip_tower import ClipTower
from longva_ray.vision.frame_encoder import FrameEncoder
from longva_ray.vision.projector import WordAverage

CLIP = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=56,
    patch_size=14,
)


def build_encoder(seed: int = 0, **settings: Any) -> FrameEncoder:
    torch.manual_seed(seed)
    chosen = {"width": 24, "feature_layer": -2, "pool_stride": 2, "hidden_act": "gelu"} | settings
    return FrameEncoder(CLIP, **chosen).eval()


def random_grids(count: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 56, 56, 3), dtype=np.uint8)


def full_clip(tower: ClipTower) -> CLIPVisionModel:
    """An uncut CLIP with the tower's weights; the layers after those are random."""
    torch.manual_seed(1)
    clip = CLIPVisionModel(CLIP).eval()
    assert not clip.load_state_dict(tower.clip.state_dict(), strict=False).unexpected_keys
    return clip


@pytest.mark.parametrize("layer", [-1, -2, -3, 1, 3])
def test_tower_equals_transformers_hidden_state(layer: int) -> None:
    torch.manual_seed(0)
    tower = ClipTower(CLIP, feature_layer=layer).eval()
    pixels_GCYX = torch.randn(3, 3, 56, 56)
    with torch.no_grad():
        states = full_clip(tower)(pixels_GCYX, output_hidden_states=True).hidden_states
        patches_GPV = tower(pixels_GCYX)
    torch.testing.assert_close(patches_GPV, states[layer][:, 1:], rtol=0, atol=0)


def test_layers_behind_the_selected_one_are_not_built() -> None:
    assert len(ClipTower(CLIP, feature_layer=-2).clip.encoder.layers) == 3


def plain_tokens(encoder: FrameEncoder, grids_GYXC: NDArray[np.uint8]) -> Tensor:
    """transformers' processor and CLIP, two matrix products, and a loop over pooling windows."""
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    pixels = processor(list(grids_GYXC), return_tensors="pt", input_data_format="channels_last")
    clip = full_clip(encoder.tower)
    patches_GPV = clip(pixels.pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    first, second = encoder.projector.linear_1, encoder.projector.linear_2
    hidden_GPD = torch.nn.functional.gelu(patches_GPV @ first.weight.T + first.bias)
    projected_GPD = hidden_GPD @ second.weight.T + second.bias
    words = encoder.projector.words
    if words is not None:
        scaled = torch.nn.functional.layer_norm(projected_GPD, (24,))
        sharpness = 1 if encoder.training else 4
        exponentials = torch.exp(sharpness * scaled @ words.embeddings_WD.T)
        shares = exponentials / exponentials.sum(-1, keepdim=True)
        projected_GPD = shares @ words.embeddings_WD
    tokens = []
    for grid_PD in projected_GPD:
        for row in range(0, 4, 2):
            for column in range(0, 4, 2):
                window = [(row + y) * 4 + column + x for y in (0, 1) for x in (0, 1)]
                tokens.append(grid_PD[window].mean(0))
    return torch.stack(tokens).reshape(len(grids_GYXC), 4, 24)


@pytest.mark.parametrize(
    ("num_words", "training"),
    [(None, False), (50, False), (50, True)],
    ids=["mlp", "align", "align-in-training"],
)
def test_tokens_equal_a_plain_reference(num_words: int | None, training: bool) -> None:
    encoder, grids_GYXC = build_encoder(num_words=num_words).train(training), random_grids()
    if encoder.projector.words is not None:
        torch.nn.init.normal_(encoder.projector.words.embeddings_WD)
    with torch.no_grad():
        wanted_GQD = plain_tokens(encoder, grids_GYXC)
    tokens_GQD = encoder.encode(grids_GYXC, micro_batch=2)
    assert tokens_GQD.shape == (5, encoder.tokens_per_grid, encoder.width) == (5, 4, 24)
    assert tokens_GQD.is_contiguous()
    torch.testing.assert_close(tokens_GQD, wanted_GQD, rtol=1e-4, atol=1e-5)


def test_the_published_geometry() -> None:
    """24 x 24 patches a grid, 144 tokens after pooling (paper, section 3.2)."""
    clip = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1,
        image_size=336, patch_size=14,
    )  # fmt: skip
    encoder = FrameEncoder(clip, width=8, feature_layer=-2, pool_stride=2, hidden_act="gelu")
    assert (encoder.grid_size, encoder.tokens_per_grid) == (336, 144)


def test_same_grids_same_bits_and_any_micro_batch_the_same_values() -> None:
    encoder, grids_GYXC = build_encoder(), random_grids(7)
    once = encoder.encode(grids_GYXC, micro_batch=3)
    assert torch.equal(once, encoder.encode(grids_GYXC, micro_batch=3))
    # The first micro-batch does not depend on what follows it.
    assert torch.equal(once[:3], encoder.encode(grids_GYXC[:3], micro_batch=3))
    for micro_batch in (1, 7, 100):
        other = encoder.encode(grids_GYXC, micro_batch=micro_batch)
        torch.testing.assert_close(other, once, rtol=1e-4, atol=1e-6)


def test_numpy_torch_and_read_only_input_are_one(recwarn: pytest.WarningsRecorder) -> None:
    encoder, grids_GYXC = build_encoder(), random_grids()
    from_torch = encoder.encode(torch.from_numpy(grids_GYXC.copy()), micro_batch=2)
    grids_GYXC.flags.writeable = False
    assert torch.equal(from_torch, encoder.encode(grids_GYXC, micro_batch=2))
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_no_grids_no_tokens() -> None:
    assert build_encoder().encode(random_grids(0), micro_batch=2).shape == (0, 4, 24)


def test_forward_trains_every_parameter() -> None:
    encoder = build_encoder().train()
    encoder(random_grids()).square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert without == []
    assert not encoder.encode(random_grids(), micro_batch=2).requires_grad


def test_fingerprint_is_that_of_the_weights_and_settings() -> None:
    encoder = build_encoder()
    print_of_first = encoder.fingerprint()
    assert len(print_of_first) == 32
    assert int(print_of_first, 16) >= 0
    assert build_encoder().fingerprint() == print_of_first

    copy = build_encoder(seed=5)
    assert copy.fingerprint() != print_of_first
    copy.load_state_dict(encoder.state_dict())
    assert copy.fingerprint() == print_of_first

    with torch.no_grad():
        copy.projector.linear_2.bias[0] += 1e-6
    assert copy.fingerprint() != print_of_first
    for settings in ({"pool_stride": 4}, {"hidden_act": "relu"}, {"feature_layer": -3}):
        assert build_encoder(**settings).fingerprint() != print_of_first
    assert build_encoder(feature_layer=3).fingerprint() == print_of_first  # the same layer as -2
    assert build_encoder().to(torch.bfloat16).fingerprint() != print_of_first


def test_bfloat16_weights_give_bfloat16_tokens() -> None:
    tokens_GQD = build_encoder().to(torch.bfloat16).encode(random_grids(), micro_batch=2)
    assert tokens_GQD.dtype == torch.bfloat16
    reference_GQD = build_encoder().encode(random_grids(), micro_batch=2)
    torch.testing.assert_close(tokens_GQD.float(), reference_GQD, rtol=0.1, atol=0.1)


def test_user_errors_say_what_was_wanted() -> None:
    encoder = build_encoder()
    with pytest.raises(ValueError, match=r"\(2, 55, 56, 3\), want \(G, 56, 56, 3\)"):
        encoder.encode(np.zeros((2, 55, 56, 3), np.uint8), micro_batch=1)
    with pytest.raises(ValueError, match="float32, want uint8"):
        encoder.encode(np.zeros((2, 56, 56, 3), np.float32), micro_batch=1)
    with pytest.raises(ValueError, match="micro_batch=0"):
        encoder.encode(random_grids(), micro_batch=0)
    with pytest.raises(ValueError, match="4x4 patches does not divide into 3x3"):
        build_encoder(pool_stride=3)
    with pytest.raises(ValueError, match="vision_feature_layer=-6 selects no layer"):
        build_encoder(feature_layer=-6)


def test_an_aligned_token_is_an_average_of_words_and_leaves_them_as_they_are() -> None:
    encoder = build_encoder(num_words=50)
    words = encoder.projector.words
    assert words is not None
    torch.nn.init.normal_(words.embeddings_WD)
    before = encoder.fingerprint()
    encoder.requires_grad_(True)
    tokens_GQD = encoder(random_grids())
    furthest = words.embeddings_WD.norm(dim=-1).max()
    assert (tokens_GQD.norm(dim=-1) <= furthest).all()
    tokens_GQD.square().sum().backward()
    learns = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert learns == encoder.state_dict().keys() - {"projector.words.embeddings_WD"}
    words.embeddings_WD[7] += 1
    assert encoder.fingerprint() != before


def test_tiles_change_neither_averages_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    words = WordAverage(11, 8)
    torch.nn.init.normal_(words.embeddings_WD)
    patches_GPD = torch.randn(3, 5, 8, requires_grad=True)
    whole = words(patches_GPD)
    (gradient,) = torch.autograd.grad(whole.square().sum(), patches_GPD)
    monkeypatch.setattr(projector, "TILE_WEIGHTS", 4 * 11)
    tiled = words(patches_GPD)
    torch.testing.assert_close(tiled, whole)
    (tiled_gradient,) = torch.autograd.grad(tiled.square().sum(), patches_GPD)
    torch.testing.assert_close(tiled_gradient, gradient)
