"""Checkpoints: where weights come from and go to, for the whole model or for one half of it.

    folder (or hub name) -> (model, processor) | LoadedLanguageModel | FrameEncoder

Two layouts are read: ours (`save_pretrained`) and the original LongVA one (`released`), told apart
by `architectures` in config.json, never by `model_type` or the folder's name: the published
LongVA-7B calls itself "qwen2". The halves load alone: answering from cached visual tokens reads no
tensor of the vision tower, encoding frames none of the language model, and a shard that holds only
the other half is not even opened. A weight that is missing is an error, not a random
initialisation. Everything is loaded to the CPU; callers move it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from longva_ray.lm.layout import LANGUAGE, VISION, open_checkpoint
from longva_ray.lm.longva import (
    LongVAConfig,
    LongVAForConditionalGeneration,
    build_frame_encoder,
    forbid_placeholders,
)
from longva_ray.lm.processor import LongVAProcessor, processor_for
from longva_ray.lm.prompt import check_prompt_length
from longva_ray.lm.rope import assert_rope
from longva_ray.vision.frame_encoder import FrameEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedLanguageModel:
    """A checkpoint's language model, without its vision tower.

    Attributes:
        model: the causal language model, in evaluation mode on the CPU.
        tokenizer: with `<image>` and `<video>`.
        config: of the whole checkpoint.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LongVAConfig

    @property
    def placeholder_ids(self) -> tuple[int, int]:
        """Ids of `<image>` and `<video>`."""
        return self.config.placeholder_ids

    def check_prompt_length(self, num_tokens: int) -> None:
        """ValueError if the checkpoint does not admit a prompt that long."""
        check_prompt_length(num_tokens, self.config.max_prompt_tokens)


def load_longva(
    path: str | Path,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    rope_theta: float | None = None,
    max_prompt_tokens: int | None = None,
) -> tuple[LongVAForConditionalGeneration, LongVAProcessor]:
    """The whole model and its processor.

    Args:
        path: a folder, or the name of a repository on the hub.
        dtype: of all weights.
        attn_implementation: attention of the language model, None for transformers' choice; the
            tower keeps its own.
        rope_theta: RoPE base instead of the checkpoint's.
        max_prompt_tokens: longest prompt instead of the checkpoint's limit.

    Raises:
        ValueError: not a LongVA checkpoint, an unsupported setting, or missing weights.
    """
    checkpoint = open_checkpoint(path, rope_theta=rope_theta, max_prompt_tokens=max_prompt_tokens)
    tokenizer = checkpoint.tokenizer()
    model = _load(
        LongVAForConditionalGeneration,
        checkpoint.config,
        checkpoint.tensors((VISION, LANGUAGE), dtype),
        dtype=dtype,
        attn_implementation=attn_implementation and {"text_config": attn_implementation},
    )
    _apply_generation_config(model, checkpoint.folder, checkpoint.config)
    assert_rope(model.language_model, checkpoint.config.text)
    tokens_per_grid = model.frame_encoder.tokens_per_grid
    processor = processor_for(checkpoint.config, tokenizer, tokens_per_grid=tokens_per_grid)
    return model, processor


def load_language_model(
    path: str | Path,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    rope_theta: float | None = None,
    max_prompt_tokens: int | None = None,
) -> LoadedLanguageModel:
    """The language model alone, for visual tokens encoded earlier; arguments as `load_longva`."""
    checkpoint = open_checkpoint(path, rope_theta=rope_theta, max_prompt_tokens=max_prompt_tokens)
    tokenizer = checkpoint.tokenizer()
    tensors = checkpoint.tensors((LANGUAGE,), dtype)
    model = _load(
        MODEL_FOR_CAUSAL_LM_MAPPING[type(checkpoint.config.text)],
        checkpoint.config.text,
        {name.removeprefix(LANGUAGE): tensor for name, tensor in tensors.items()},
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    _apply_generation_config(model, checkpoint.folder, checkpoint.config)
    assert_rope(model, checkpoint.config.text)
    return LoadedLanguageModel(model=model, tokenizer=tokenizer, config=checkpoint.config)


def load_frame_encoder(path: str | Path, *, dtype: torch.dtype) -> FrameEncoder:
    """The frame encoder alone, in evaluation mode; arguments as `load_longva`."""
    checkpoint = open_checkpoint(path)
    tensors = checkpoint.tensors((VISION,), dtype)
    with no_init_weights():
        encoder = build_frame_encoder(checkpoint.config)
    weights = {name.removeprefix(VISION): tensor for name, tensor in tensors.items()}
    _check_none_missing(sorted(set(encoder.state_dict()) - set(weights)))
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval()


def load_longva_config(path: str | Path) -> LongVAConfig:
    """The configuration of a checkpoint; reads no weights."""
    return open_checkpoint(path).config


def _apply_generation_config(model: PreTrainedModel, folder: Path, config: LongVAConfig) -> None:
    """Use the checkpoint's generation config and say what of it changes even greedy decoding."""
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    penalty = model.generation_config.repetition_penalty
    if penalty not in (None, 1.0):
        logger.warning(
            "generation config of %s: repetition_penalty=%s, which generate() applies in greedy "
            "decoding too",
            folder,
            penalty,
        )
    forbid_placeholders(model.generation_config, config)


def _load(
    model_class: Any,
    config: PreTrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    attn_implementation: Any,
    fresh: str | None = None,
) -> Any:
    """Build a model around its weights; only names that start with `fresh` may be missing."""
    model, report = model_class.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        dtype=dtype,
        output_loading_info=True,
        **({"attn_implementation": attn_implementation} if attn_implementation else {}),
    )
    missing = sorted(report["missing_keys"])
    _check_none_missing([name for name in missing if fresh is None or not name.startswith(fresh)])
    return model


def _check_none_missing(missing: Sequence[str]) -> None:
    if missing:
        raise ValueError(
            f"the checkpoint lacks {len(missing)} weight(s), the first: {', '.join(missing[:4])}; "
            "it is incomplete or of another shape than its config.json says"
        )
