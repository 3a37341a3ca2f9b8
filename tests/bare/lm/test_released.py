"""A tiny random checkpoint written in exactly the layout of lmms-lab/LongVA-7B, and its traps."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from released_layout import CANVASES, Released, flat_config
from transformers import CLIPVisionConfig

from longva_ray.lm.language_model import load_language_model
from longva_ray.lm.load import load_frame_encoder, load_longva
from longva_ray.lm.prompt import build_prompt
from longva_ray.lm.released import clip_l_336, our_config
from longva_ray.lm.splice import embed_prompt

FP32 = torch.float32


@pytest.fixture
def released(tmp_path: Path, clip_config: CLIPVisionConfig) -> Released:
    return Released(tmp_path, clip_config)


MESSAGES = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what?"}]}]


@pytest.mark.parametrize("tower", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_logits_equal_the_plain_composition(
    released: Released, frames_FYXC: NDArray[np.uint8], tower: bool, shards: int
) -> None:
    """Also when the tower's weights have to come from `mm_vision_tower`."""
    released.write(tower=tower, shards=shards)
    model, processor = load_longva(released.path, dtype=FP32)
    lm = load_language_model(released.path, dtype=FP32)
    encoder = load_frame_encoder(released.path, dtype=FP32)
    assert encoder.fingerprint() == model.frame_encoder.fingerprint()

    tokens_FD = released.tokens(frames_FYXC)
    ids_T = build_prompt(processor.tokenizer, MESSAGES, [len(frames_FYXC)])
    table = released.lm.get_input_embeddings().weight
    visual = iter(tokens_FD)
    embeds_1TD = torch.stack([next(visual) if i > 258 else table[i] for i in ids_T.tolist()])[None]
    with torch.no_grad():
        wanted = released.lm(inputs_embeds=embeds_1TD).logits
        whole = model(
            input_ids=ids_T[None], pixel_values_videos=torch.from_numpy(frames_FYXC)
        ).logits
        tokens_GQD = encoder.encode(frames_FYXC, micro_batch=4)
        halves = lm.model(inputs_embeds=embed_prompt(lm, ids_T, [tokens_GQD])).logits
    torch.testing.assert_close(whole, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(halves, wanted, rtol=1e-4, atol=1e-5)


def test_settings_of_the_released_code(released: Released) -> None:
    released.write(tower=True, shards=1)
    model, processor = load_longva(released.path, dtype=FP32)
    assert model.config.grid_rule == processor.grid_rule == "released"
    assert model.config.max_grids == 49
    # images are letterboxed, frames of videos cropped
    assert model.config.grids.frame_fitting == processor.frame_fitting == "letterbox"
    assert model.config.fitting_of_videos == processor.video_fitting == "center_crop"
    # rope_scaling of the file is ignored, as in the released code; the base is not
    assert model.config.text.rope_parameters == {"rope_type": "default", "rope_theta": 1e9}
    # placeholders were added after the embedding table and need no row of it
    assert processor.tokenizer.encode("<image><video>") == [259, 260]
    assert model.get_input_embeddings().weight.shape[0] == 259


def test_it_can_be_saved_in_our_layout(released: Released, tmp_path: Path) -> None:
    released.write(tower=True, shards=2)
    model, processor = load_longva(released.path, dtype=FP32)
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    again, _ = load_longva(tmp_path / "ours", dtype=FP32)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert again.config.max_prompt_tokens == 32768
    assert again.config.fitting_of_videos == "center_crop"
    assert again.generation_config.repetition_penalty == 1.05


def test_repetition_penalty_is_kept_and_told(
    released: Released, caplog: pytest.LogCaptureFixture
) -> None:
    released.write(tower=True, shards=1)
    for load in (load_language_model, load_longva):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="longva_ray"):
            loaded = load(released.path, dtype=FP32)
        model = loaded[0] if isinstance(loaded, tuple) else loaded.model
        assert model.generation_config.repetition_penalty == 1.05
        assert model.generation_config.eos_token_id == [258, 256]
        assert "repetition_penalty=1.05" in caplog.text


def test_too_long_a_prompt_is_an_error_until_the_limit_is_lifted(
    released: Released, frames_FYXC: NDArray[np.uint8]
) -> None:
    released.config["tokenizer_model_max_length"] = 100
    released.write(tower=True, shards=1)
    lm = load_language_model(released.path, dtype=FP32)
    ids_T = build_prompt(lm.tokenizer, MESSAGES, [60])
    told = f"prompt of {len(ids_T)} tokens exceeds the limit of 100;"
    with pytest.raises(ValueError, match=told):
        lm.check_prompt_length(len(ids_T))
    _, processor = load_longva(released.path, dtype=FP32)
    with pytest.raises(ValueError, match="exceeds the limit of 100;"):
        processor(text="<video>" + 100 * "a", videos=frames_FYXC)
    lifted = load_language_model(released.path, dtype=FP32, max_prompt_tokens=1000)
    lifted.check_prompt_length(len(ids_T))


@pytest.mark.parametrize(
    ("key", "got", "told"),
    [
        ("mm_projector_type", "linear", "'linear', want 'mlp2x_gelu'"),
        ("mm_vision_select_feature", "cls_patch", "'cls_patch', want 'patch'"),
        ("mm_patch_merge_type", "flat", "'flat', want 'unires'"),
        ("image_aspect_ratio", "pad", "'pad', want 'anyres'"),
        ("mm_use_im_start_end", True, "True, want False"),
        ("mm_spatial_pool_stride", 4, "4, want 2"),
        ("mm_resampler_type", "qformer", "'qformer', want None or 'spatial_pool'"),
        ("mm_hidden_size", 1024, "1024, want 16"),
        (
            "image_grid_pinpoints",
            [[28 * c, 28 * r] for c, r in CANVASES[:-1]],
            "199 canvases in image_grid_pinpoints, want all",
        ),
    ],
)
def test_unsupported_values_name_key_got_and_wanted(
    released: Released, key: str, got: Any, told: str
) -> None:
    released.config[key] = got
    released.write(tower=True, shards=1)
    with pytest.raises(ValueError, match=told) as caught:
        load_language_model(released.path, dtype=FP32)
    assert key in str(caught.value)


def test_a_missing_key_and_a_strange_weight_are_named(released: Released) -> None:
    del released.config["rope_theta"]
    released.write(tower=True, shards=1)
    with pytest.raises(ValueError, match="lacks 'rope_theta'"):
        load_language_model(released.path, dtype=FP32)
    released.config["rope_theta"] = 1e9
    released.write(tower=True, shards=1)
    index = json.loads((released.path / "model.safetensors.index.json").read_text())
    index["weight_map"]["image_newline"] = "model-0.safetensors"
    (released.path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="'image_newline' is not one of a LlavaQwenForCausalLM"):
        load_language_model(released.path, dtype=FP32)


def test_the_published_size() -> None:
    """Config of LongVA-7B itself: shapes and the full list of 200 canvases."""
    pinpoints = [[336 * c, 336 * r] for c, r in CANVASES]
    published = flat_config(
        mm_vision_tower="openai/clip-vit-large-patch14-336",
        mm_hidden_size=1024,
        hidden_size=3584,
        image_grid_pinpoints=pinpoints,
    )
    assert len(pinpoints) == 200
    config = our_config(published, clip_l_336())
    assert (config.grid_size, config.max_grids, config.text.hidden_size) == (336, 49, 3584)
