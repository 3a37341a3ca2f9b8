"""Language models whose needle score is known: one that recalls perfectly, and one that is blind.

Checkpoints like any other, loaded by transformers through the project's own loader. The oracle
remembers every token in the KV cache and predicts what followed the last place where the text read
as it reads now; the blind one always says the same digit.
"""

from pathlib import Path
from typing import Any

import torch
from byte_tokenizer import BYTE_VOCABULARY_SIZE, byte_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

CONTEXT = 30
"""Bytes by which the oracle finds a place again: from a city to the number after it."""


class OracleConfig(PreTrainedConfig):
    model_type = "needle_oracle"

    def __init__(self, blind: bool = False, **kwargs: Any) -> None:
        self.blind = blind
        self.vocab_size = BYTE_VOCABULARY_SIZE
        self.hidden_size = BYTE_VOCABULARY_SIZE
        self.num_hidden_layers = 1
        self.max_position_embeddings = 4096
        self.rope_parameters = {"rope_type": "none", "rope_theta": 1.0}
        super().__init__(**kwargs)


class Oracle(PreTrainedModel, GenerationMixin):
    config_class = OracleConfig

    def __init__(self, config: OracleConfig) -> None:
        super().__init__(config)
        self.embedding = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        # Embeddings are one-hot, so the cache of keys is the text itself.
        embeds = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        assert past_key_values is not None
        history, _ = past_key_values.update(embeds[:, None], embeds[:, None], 0)
        text = bytes(int(token) % 256 for token in history[0, 0].argmax(-1))
        count = embeds.shape[1]
        rows = range(len(text) - (logits_to_keep or count), len(text))
        said = [ord("5") if self.config.blind else _recall(text[: row + 1]) for row in rows]
        logits = torch.nn.functional.one_hot(torch.tensor([said]), self.config.vocab_size)
        return CausalLMOutputWithPast(logits=logits.float() * 20)


def _recall(text: bytes) -> int:
    place = text.rfind(text[-CONTEXT:], 0, len(text) - 1)
    return text[place + CONTEXT] if place >= 0 else ord("?")


def save_oracle(folder: Path, *, blind: bool) -> str:
    AutoConfig.register("needle_oracle", OracleConfig, exist_ok=True)
    AutoModelForCausalLM.register(OracleConfig, Oracle, exist_ok=True)
    model = Oracle(OracleConfig(blind=blind))
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(BYTE_VOCABULARY_SIZE))
    tokenizer = byte_tokenizer()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
