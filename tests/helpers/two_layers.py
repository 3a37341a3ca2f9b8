"""Qwen2 and Llama with two layers, for tests of what happens around a model."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

WORDS, LAYERS = 67, 2


def tiny(family: str, attention: str = "sdpa", **changes: Any) -> PreTrainedModel:
    """Two layers with grouped-query attention; the same weights in every process."""
    config_class = {"qwen2": Qwen2Config, "llama": LlamaConfig}[family]
    settings = {
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    config = config_class(**(settings | changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    # Away from the small initialisation, where everything is alike.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train()
