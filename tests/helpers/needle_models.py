"""Small checkpoints and grids that the needle tests share."""

import dataclasses

import pytest
import torch
from byte_tokenizer import BYTE_VOCABULARY_SIZE, byte_tokenizer
from oracle import save_oracle
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from longva_ray.settings.needles import NiahConfig

SMALL = NiahConfig(
    dtype="float32",
    worker_gpus=0,
    worker_cpus=0.5,
    lengths=(300, 420),
    depths=(0.0, 0.5, 1.0),
    samples=2,
    distractors=(0, 2),
    needle="\nThe magic number of {city} is {number}.\n",
    question="\nThe magic number of {city} is",
    perplexity_windows=1,
    prefill_chunk=32,
)


@pytest.fixture
def small_grid() -> NiahConfig:
    """24 prompts of a few hundred bytes."""
    return dataclasses.replace(SMALL)


@pytest.fixture(scope="session")
def random_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A plain causal language model with random weights and the byte tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "random"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=BYTE_VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    model = Qwen2ForCausalLM(config)
    tokenizer = byte_tokenizer()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def oracle_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that recalls perfectly."""
    folder = tmp_path_factory.mktemp("models") / "oracle"
    return str(save_oracle(folder, blind=False))


@pytest.fixture(scope="session")
def blind_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that sees nothing."""
    folder = tmp_path_factory.mktemp("models") / "blind"
    return str(save_oracle(folder, blind=True))
