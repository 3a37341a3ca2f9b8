"""Tiny models, in every shape of backbone, and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from byte_tokenizer import BYTE_VOCABULARY_SIZE, byte_tokenizer
from numpy.typing import NDArray
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from longva_ray.lm.join import initialise_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig

MakeConfig = Callable[..., LongVAConfig]


@pytest.fixture(scope="session")
def clip_config() -> CLIPVisionConfig:
    """Grids of 28 pixels, 4 patches, 1 visual token."""
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )


def text_config(kind: str = "qwen2", **settings: Any) -> PreTrainedConfig:
    shape = {
        "vocab_size": BYTE_VOCABULARY_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        # large enough for logits of different tokens to differ clearly
        "initializer_range": 0.2,
    } | settings
    return {"qwen2": Qwen2Config, "llama": LlamaConfig}[kind](**shape)


@pytest.fixture(scope="session")
def make_config(clip_config: CLIPVisionConfig) -> MakeConfig:
    """LongVAConfig of a tiny model; `kind` and text settings choose the backbone."""

    def make(kind: str = "qwen2", **settings: Any) -> LongVAConfig:
        return LongVAConfig(
            vision_config=clip_config,
            text_config=text_config(kind, **settings),
            image_token_id=259,
            video_token_id=260,
        )

    return make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def frames_FYXC() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def model(make_config: MakeConfig) -> LongVAForConditionalGeneration:
    torch.manual_seed(0)
    return LongVAForConditionalGeneration(make_config()).eval()


@pytest.fixture(scope="session")
def checkpoint(
    make_config: MakeConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("longva") / "tiny"
    initialise_longva(make_config(), tokenizer, seed=0, path=path)
    return path
