"""The language model of any checkpoint, without eyes: what prompts are read and answered by.

    folder | hub name | file.gguf | LongVA checkpoint -> LoadedLanguageModel

Of a LongVA checkpoint no tensor of the vision tower is read, since visual tokens come from shards.
The RoPE base may be raised on the way, which is the whole training-free baseline (paper, section
5.1). Everything is loaded to the CPU; callers move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from longva_ray.lm.base_models import is_longva, load_tokenizer
from longva_ray.lm.build import build_model, check_loaded, use_generation_config
from longva_ray.lm.gguf import transformers_source
from longva_ray.lm.layout import LANGUAGE, open_checkpoint
from longva_ray.lm.prompt import check_prompt_length
from longva_ray.lm.rope import assert_rope, stretch
from longva_ray.lm.weights import check_readable, reads_folder


@dataclass(frozen=True, kw_only=True)
class LoadedLanguageModel:
    """A causal language model with its tokenizer, in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    placeholder_ids: Sequence[int]
    """Ids of `<image>` and `<video>`; none for a model that is no LongVA."""
    max_prompt_tokens: int | None
    """Longest prompt that it admits; None, any."""

    def check_prompt_length(self, num_tokens: int) -> None:
        """ValueError if it does not admit a prompt that long."""
        check_prompt_length(num_tokens, self.max_prompt_tokens)


def load_language_model(
    path: str | Path,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    rope_theta: float | None = None,
    max_prompt_tokens: int | None = None,
    max_positions: int | None = None,
) -> LoadedLanguageModel:
    """The language model of a checkpoint. Where its generation config names no end of text, the
    tokenizer's is taken.

    Args:
        path: a folder, the name of a repository on the hub, or a GGUF file.
        dtype: of all weights.
        attn_implementation: name of an attention, None for transformers' choice.
        rope_theta: RoPE base instead of the checkpoint's.
        max_prompt_tokens: longest prompt instead of the checkpoint's limit.
        max_positions: `max_position_embeddings` instead of the checkpoint's, for training.

    Raises:
        ValueError: no such checkpoint, an unsupported setting, or missing weights.
    """
    config = language_config(path, rope_theta=rope_theta, max_positions=max_positions)
    load = _half_of_longva if is_longva(path) else _any_other
    loaded = load(path, config, dtype, attn_implementation, max_prompt_tokens)
    if loaded.model.generation_config.eos_token_id is None:
        loaded.model.generation_config.eos_token_id = loaded.tokenizer.eos_token_id
    loaded.model.eval()
    return loaded


def language_config(
    path: str | Path, *, rope_theta: float | None = None, max_positions: int | None = None
) -> PreTrainedConfig:
    """The configuration of a checkpoint's language model; reads no weights. Arguments as
    `load_language_model`.

    Raises:
        ValueError: no such checkpoint, or one without a language model.
    """
    if is_longva(path):
        config = open_checkpoint(path).config.text
    else:
        place, source = transformers_source(path)
        with reads_folder(place):
            config = AutoConfig.from_pretrained(place, **source).get_text_config()
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(
                f"{path} holds a {type(config).__name__}, want a language model or a LongVA "
                "checkpoint, which has one"
            )
    stretch(config, rope_theta=rope_theta, max_positions=max_positions)
    return config


def _half_of_longva(
    path: str | Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attn_implementation: str | None,
    max_prompt_tokens: int | None,
) -> LoadedLanguageModel:
    checkpoint = open_checkpoint(path, max_prompt_tokens=max_prompt_tokens)
    tokenizer = checkpoint.tokenizer()
    tensors = checkpoint.tensors((LANGUAGE,), dtype)
    model = build_model(
        MODEL_FOR_CAUSAL_LM_MAPPING[type(config)],
        config,
        {name.removeprefix(LANGUAGE): tensor for name, tensor in tensors.items()},
        source=path,
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    use_generation_config(model, checkpoint.folder, checkpoint.config)
    assert_rope(model, config)
    return LoadedLanguageModel(
        model=model,
        tokenizer=tokenizer,
        placeholder_ids=checkpoint.config.placeholder_ids,
        max_prompt_tokens=checkpoint.config.max_prompt_tokens,
    )


def _any_other(
    path: str | Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attn_implementation: str | None,
    max_prompt_tokens: int | None,
) -> LoadedLanguageModel:
    place, source = transformers_source(path)
    if not source:
        check_readable(Path(place))
    tokenizer = load_tokenizer(str(path))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with a name
            **source,
        )
    except OSError as error:
        raise ValueError(f"cannot load a language model from {path}: {error}") from error
    model, report = loaded
    check_loaded(report, path)
    assert_rope(model, config)
    return LoadedLanguageModel(
        model=model, tokenizer=tokenizer, placeholder_ids=(), max_prompt_tokens=max_prompt_tokens
    )
