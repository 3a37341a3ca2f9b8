"""Pretraining of the tower: it learns, from every place alone, and goes into a model unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, Qwen2Config, Qwen2ForCausalLM

from longva_ray.lm.join import assemble_longva
from longva_ray.lm.load import load_frame_encoder
from longva_ray.tiny.tokenizer import TINY_VOCABULARY_SIZE, tiny_tokenizer
from longva_ray.tiny.tower import (
    NUM_WORDS,
    NamingTower,
    TowerTraining,
    accuracy,
    change,
    draw_pictures,
    pretrain_tower,
    save_tower,
    tower_config,
)
from longva_ray.tiny.world import COLOURS, THINGS

CONFIG = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=28,
    patch_size=7,
)


def test_pictures_show_every_thing_in_every_colour() -> None:
    pictures = draw_pictures(len(THINGS) * 3, size=28, seed=0)
    assert pictures.frames_GYXC.shape == (len(THINGS) * 3, 28, 28, 3)
    assert pictures.thing_G.bincount().tolist() == [3] * len(THINGS)
    assert len(set(pictures.colour_G.tolist())) == len(COLOURS)
    again = draw_pictures(len(THINGS) * 3, size=28, seed=0)
    np.testing.assert_array_equal(pictures.frames_GYXC, again.frames_GYXC)


def test_a_short_training_learns() -> None:
    training = TowerTraining(pictures=340, steps=80, batch=32, warmup_steps=5, learning_rate=3e-3)
    unseen = draw_pictures(340, size=28, seed=1)
    torch.manual_seed(0)
    before = accuracy(NamingTower(CONFIG).eval(), unseen)
    after = accuracy(pretrain_tower(CONFIG, training), unseen)
    # Colours come within seconds, things within minutes.
    assert before["colour"] < 0.3
    assert after["colour"] > 0.6
    assert after["scene"] <= min(after["colour"], after["thing"])


def test_a_training_repeats_and_leaves_the_callers_random_numbers_alone() -> None:
    training = TowerTraining(pictures=34, steps=3, batch=4)
    torch.manual_seed(5)
    first = pretrain_tower(CONFIG, training).state_dict()
    drawn = torch.rand(1)
    second = pretrain_tower(CONFIG, training).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_changed_frames_stay_frames_and_keep_their_scene() -> None:
    pictures = draw_pictures(8, size=56, seed=0)
    pixels_GCYX = torch.from_numpy(pictures.frames_GYXC).permute(0, 3, 1, 2).float()
    changed_GCYX = change(pixels_GCYX)
    assert changed_GCYX.shape == pixels_GCYX.shape
    assert 0 <= changed_GCYX.min() <= changed_GCYX.max() <= 255
    own = (changed_GCYX - pixels_GCYX).abs().mean(dim=(1, 2, 3))
    other = (changed_GCYX - pixels_GCYX.roll(1, 0)).abs().mean(dim=(1, 2, 3))
    assert (own > 1).all()
    assert own.mean() < other.mean()


def test_a_saved_tower_is_the_tower_of_an_assembled_model(tmp_path: Path) -> None:
    model = NamingTower(CONFIG).eval()
    save_tower(model, CONFIG, tmp_path / "tower")
    text = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=TINY_VOCABULARY_SIZE,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    text.save_pretrained(tmp_path / "text")
    tiny_tokenizer().save_pretrained(tmp_path / "text")
    assemble_longva(tmp_path / "text", tmp_path / "tower", seed=0, path=tmp_path / "longva")
    encoder = load_frame_encoder(tmp_path / "longva", dtype=torch.float32)
    assert encoder.tokens_per_grid == 4
    pixels_GCYX = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.tower(pixels_GCYX), model.tower(pixels_GCYX))
    with pytest.raises(ValueError, match="exists"):
        save_tower(model, CONFIG, tmp_path / "tower")


def test_the_tiny_tower_makes_four_tokens_of_a_frame() -> None:
    model = NamingTower(tower_config()).eval()
    pictures = draw_pictures(2, size=56, seed=0)
    with torch.inference_mode():
        pixels_GCYX = torch.from_numpy(pictures.frames_GYXC).permute(0, 3, 1, 2).float()
        assert model(pixels_GCYX).shape == (2, 4, NUM_WORDS)


def test_impossible_trainings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        TowerTraining(steps=0)
