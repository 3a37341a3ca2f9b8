"""Checkpoints of our layout: same bytes from a seed, halves that load alone, RoPE, assembly."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
)

from longva_ray.lm.auto_classes import register_longva
from longva_ray.lm.join import assemble_longva, initialise_longva
from longva_ray.lm.language_model import language_config, load_language_model
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.load import load_frame_encoder, load_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.processor import LongVAProcessor
from longva_ray.lm.prompt import build_prompt
from longva_ray.lm.rope import assert_rope
from longva_ray.lm.splice import embed_prompt

MakeConfig = Callable[..., LongVAConfig]


FP32 = torch.float32


def ask(video_tokens: int) -> tuple[list[dict[str, Any]], list[int]]:
    content = [{"type": "video"}, {"type": "text", "text": "what?"}]
    return [{"role": "user", "content": content}], [video_tokens]


def split_in_two_shards(source: Path, target: Path) -> tuple[Path, Path]:
    """The same checkpoint with vision weights in one file and language weights in another."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    shards = {"frame_encoder.": target / "vision.safetensors", "language_model.": target / "lm.st"}
    weight_map = {}
    for prefix, file in shards.items():
        chosen = {name: t for name, t in tensors.items() if name.startswith(prefix)}
        save_file(chosen, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return tuple(shards.values())  # type: ignore[return-value]


def test_same_seed_same_bytes(
    checkpoint: Path, make_config: MakeConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # the caller's random state neither matters nor moves
    before = torch.get_rng_state()
    initialise_longva(make_config(), tokenizer, seed=0, path=tmp_path / "again")
    assert torch.equal(before, torch.get_rng_state())
    initialise_longva(make_config(), tokenizer, seed=1, path=tmp_path / "other")
    names = sorted(file.name for file in checkpoint.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir())
    for name in names:
        assert (checkpoint / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    weights = "model.safetensors"
    assert (checkpoint / weights).read_bytes() != (tmp_path / "other" / weights).read_bytes()


def test_existing_folder_is_refused_and_no_half_one_is_left(
    make_config: MakeConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="exists already"):
        initialise_longva(make_config(), tokenizer, seed=0, path=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        initialise_longva(make_config(), tokenizer, seed=0, path=tmp_path / "file" / "below")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_halves_and_whole_agree(checkpoint: Path, frames_FYXC: NDArray[np.uint8]) -> None:
    model, processor = load_longva(checkpoint, dtype=FP32)
    lm = load_language_model(checkpoint, dtype=FP32)
    encoder = load_frame_encoder(checkpoint, dtype=FP32)
    assert isinstance(lm.model, Qwen2ForCausalLM)
    assert not any(module.training for module in (model, lm.model, encoder))
    assert encoder.fingerprint() == model.frame_encoder.fingerprint()

    tokens_GQD = encoder.encode(frames_FYXC, micro_batch=4)
    ids_T = build_prompt(lm.tokenizer, *ask(len(frames_FYXC)))
    embeds_1TD = embed_prompt(lm, ids_T, [tokens_GQD])
    with torch.no_grad():
        from_halves = lm.model(inputs_embeds=embeds_1TD).logits
        from_whole = model(
            input_ids=ids_T[None], pixel_values_videos=torch.from_numpy(frames_FYXC)
        ).logits
    torch.testing.assert_close(from_halves, from_whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(build_prompt(processor.tokenizer, *ask(len(frames_FYXC))), ids_T)


def test_each_half_loads_without_the_others_file(
    checkpoint: Path, tmp_path: Path, frames_FYXC: NDArray[np.uint8]
) -> None:
    vision, language = split_in_two_shards(checkpoint, tmp_path / "split")
    wanted = load_longva(tmp_path / "split", dtype=FP32)[0]
    away = vision.rename(tmp_path / "away")
    lm = load_language_model(tmp_path / "split", dtype=FP32)
    for name, weight in wanted.language_model.state_dict().items():
        assert torch.equal(lm.model.state_dict()[name], weight)
    with pytest.raises(ValueError, match=r"vision\.safetensors is not there"):
        load_frame_encoder(tmp_path / "split", dtype=FP32)

    away.rename(vision)
    language.unlink()
    encoder = load_frame_encoder(tmp_path / "split", dtype=FP32)
    assert encoder.fingerprint() == wanted.frame_encoder.fingerprint()
    assert torch.equal(
        encoder.encode(frames_FYXC, micro_batch=6),
        wanted.frame_encoder.encode(frames_FYXC, micro_batch=6),
    )


def test_fingerprint_survives_transformers_and_our_saving(checkpoint: Path, tmp_path: Path) -> None:
    model, processor = load_longva(checkpoint, dtype=FP32)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    first = load_frame_encoder(checkpoint, dtype=FP32).fingerprint()
    assert load_frame_encoder(tmp_path, dtype=FP32).fingerprint() == first
    assert load_frame_encoder(checkpoint, dtype=torch.bfloat16).fingerprint() != first


def test_weights_are_copies_not_views_of_the_file(checkpoint: Path, tmp_path: Path) -> None:
    """Saving over the folder a model came from must not change the model."""
    shutil.copytree(checkpoint, tmp_path / "copy")
    lm = load_language_model(tmp_path / "copy", dtype=FP32)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    file = tmp_path / "copy" / "model.safetensors"
    with file.open("r+b") as handle:
        handle.write(b"\0" * file.stat().st_size)
    for name, weight in lm.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_auto_classes(checkpoint: Path) -> None:
    register_longva()
    register_longva()  # repeatable
    assert isinstance(AutoConfig.from_pretrained(checkpoint), LongVAConfig)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    assert isinstance(model, LongVAForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(checkpoint), LongVAProcessor)
    ours, _ = load_longva(checkpoint, dtype=FP32)
    for name, weight in ours.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_generation_tokens_come_from_the_tokenizer(checkpoint: Path) -> None:
    config = load_language_model(checkpoint, dtype=FP32).model.generation_config
    assert (config.eos_token_id, config.pad_token_id) == (258, 256)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_rope_base_is_settable(
    make_config: MakeConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str
) -> None:
    initialise_longva(make_config(kind), tokenizer, seed=0, path=tmp_path / "rope")
    for theta in (None, 5e7):
        lm = load_language_model(tmp_path / "rope", dtype=torch.bfloat16, rope_theta=theta)
        model, _ = load_longva(tmp_path / "rope", dtype=torch.bfloat16, rope_theta=theta)
        wanted = (theta or 1e6) ** -(torch.arange(0, 8, 2) / 8)
        for language_model in (lm.model, model.language_model):
            rotary = language_model.model.rotary_emb
            torch.testing.assert_close(rotary.inv_freq, wanted)
            assert language_model.config.rope_parameters["rope_theta"] == (theta or 1e6)
        config = language_config(tmp_path / "rope", rope_theta=theta)
        assert config.rope_parameters["rope_theta"] == (theta or 1e6)


def test_rope_lost_between_config_and_buffers_is_noticed(checkpoint: Path) -> None:
    lm = load_language_model(checkpoint, dtype=FP32)
    config = language_config(checkpoint)
    assert_rope(lm.model, config)
    other = config.__class__(
        **config.to_dict() | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e9}}
    )
    with pytest.raises(AssertionError, match="does not belong to rope_theta=1000000000"):
        assert_rope(lm.model, other)
    with pytest.raises(AssertionError, match="bfloat16, want float32"):
        assert_rope(lm.model.to(torch.bfloat16), config)


def test_prompt_limit_is_the_callers_if_given(checkpoint: Path) -> None:
    lm = load_language_model(checkpoint, dtype=FP32, max_prompt_tokens=10)
    lm.check_prompt_length(10)
    with pytest.raises(ValueError, match=r"prompt of 11 tokens exceeds the limit of 10"):
        lm.check_prompt_length(11)
    _, processor = load_longva(checkpoint, dtype=FP32, max_prompt_tokens=10)
    with pytest.raises(ValueError, match=r"prompt of 11 tokens exceeds the limit of 10"):
        processor(text="12345678901")
    load_language_model(checkpoint, dtype=FP32).check_prompt_length(10**6)


def test_attention_is_chosen_by_name(checkpoint: Path) -> None:
    lm = load_language_model(checkpoint, dtype=FP32, attn_implementation="eager")
    model, _ = load_longva(checkpoint, dtype=FP32, attn_implementation="eager")
    assert lm.model.config._attn_implementation == "eager"
    assert model.language_model.config._attn_implementation == "eager"
    assert model.frame_encoder.tower.clip.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="no_such_attention"):
        load_language_model(checkpoint, dtype=FP32, attn_implementation="no_such_attention")


def clip_checkpoint(kind: str, config: CLIPVisionConfig, path: Path) -> CLIPVisionModel:
    torch.manual_seed(7)
    if kind == "vision":
        clip: Any = CLIPVisionModel(config)
        clip.save_pretrained(path)
        return clip
    text = CLIPTextConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=config.to_dict()))
    clip.save_pretrained(path)
    if kind == "pickled":  # as openai/clip-vit-large-patch14-336 is
        torch.save(clip.state_dict(), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
    return clip.vision_model


@pytest.mark.parametrize("kind", ["vision", "whole", "pickled"])
@pytest.mark.parametrize("tied", [False, True])
def test_assembling_a_backbone_and_a_tower(
    make_config: MakeConfig,
    clip_config: CLIPVisionConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    kind: str,
    tied: bool,
    frames_FYXC: NDArray[np.uint8],
) -> None:
    torch.manual_seed(3)
    backbone = AutoModelForCausalLM.from_config(make_config(tie_word_embeddings=tied).text)
    backbone.generation_config = GenerationConfig(eos_token_id=[258], max_new_tokens=99)
    backbone.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    clip = clip_checkpoint(kind, clip_config, tmp_path / "clip").eval()

    for name in ("a", "b"):
        assemble_longva(
            tmp_path / "text", tmp_path / "clip", seed=1, path=tmp_path / name, grid_rule="released"
        )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    assert str(tmp_path) not in (tmp_path / "a" / "config.json").read_text()

    aligned = tmp_path / "aligned"
    assemble_longva(tmp_path / "text", tmp_path / "clip", seed=1, path=aligned, projector="align")
    for dtype in (FP32, torch.bfloat16):
        for encoder in (
            load_frame_encoder(aligned, dtype=dtype),
            load_longva(aligned, dtype=dtype)[0].frame_encoder,
        ):
            words = encoder.projector.words
            assert words is not None
            assert words.embeddings_WD.dtype == dtype
            wanted = backbone.get_input_embeddings().weight.to(dtype)
            assert torch.equal(words.embeddings_WD, wanted)

    model, processor = load_longva(tmp_path / "a", dtype=FP32)
    assert model.frame_encoder.projector.words is None
    assert (processor.grid_rule, model.generation_config.max_new_tokens) == ("released", 99)
    for name, weight in backbone.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], weight), name
    pixels_GCYX = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        states = clip(pixels_GCYX, output_hidden_states=True).hidden_states
        assert torch.equal(model.frame_encoder.tower(pixels_GCYX), states[-2][:, 1:])
    assert model.frame_encoder.projector.linear_1.weight.std() > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "a").encode("<video>") == [260]


def test_a_missing_weight_is_an_error_not_a_random_one(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "holes")
    file = tmp_path / "holes" / "model.safetensors"
    tensors = load_file(file)
    del tensors["language_model.model.norm.weight"]
    del tensors["frame_encoder.projector.linear_1.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weight.*model\.norm\.weight"):
        load_language_model(tmp_path / "holes", dtype=FP32)
    with pytest.raises(ValueError, match=r"lacks 1 weight.*projector\.linear_1\.bias"):
        load_frame_encoder(tmp_path / "holes", dtype=FP32)
    with pytest.raises(ValueError, match="lacks 2 weight"):
        load_longva(tmp_path / "holes", dtype=FP32)


def test_what_is_no_checkpoint_says_so(
    checkpoint: Path, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="'/no/such/folder' is no folder here"):
        load_longva_config("/no/such/folder")
    make_config().text.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no architectures, want LongVAForConditionalGeneration"):
        load_longva_config(tmp_path)
    with pytest.raises(ValueError, match="cannot load a language model from"):
        load_language_model(tmp_path, dtype=FP32)
    shutil.copytree(checkpoint, tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    config["image_token_id"] = 7
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"as \(259, 260\), config.json as \(7, 260\)"):
        load_language_model(tmp_path / "mixed", dtype=FP32)


def test_no_repetition_penalty_no_warning(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="longva_ray"):
        load_language_model(checkpoint, dtype=FP32)
    assert not caplog.records
