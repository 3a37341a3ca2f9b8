"""The architecture and the tokenizer that the language model of longva-tiny starts from."""

from pathlib import Path

from transformers import LlamaConfig

from longva_ray.tiny.curriculum import PRETRAINED_BASE, PRETRAINED_TOKENS
from longva_ray.tiny.tokenizer import TINY_VOCABULARY_SIZE, tiny_tokenizer


def write_base(folder: Path) -> None:
    """The architecture and the tokenizer that pretraining starts from, as a checkpoint folder."""
    tokenizer = tiny_tokenizer()
    # Qwen2's architecture but for one more bias. Under the name "qwen2" transformers would read any
    # tokenizer as Qwen2's own, which takes this one's words apart.
    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        attention_bias=True,
        max_position_embeddings=PRETRAINED_TOKENS,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": PRETRAINED_BASE},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
