"""Small language models of both families, with random weights."""

import pytest
import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@pytest.fixture(params=["qwen2", "llama"])
def language_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    if request.param == "qwen2":
        model: PreTrainedModel = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.generation_config = GenerationConfig(eos_token_id=96)
    return model.eval()


@pytest.fixture
def prompt_1TD() -> torch.Tensor:
    return torch.randn(1, 37, 32, generator=torch.Generator().manual_seed(1))
