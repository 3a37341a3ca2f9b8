"""LongVA from a checkpoint: the whole model, or its frame encoder alone.

    folder (or hub name) -> (model, processor) | FrameEncoder

Encoding frames reads no tensor of the language model; `language_model` loads that half alone.
Everything is loaded to the CPU; callers move it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.initialization import no_init_weights

from longva_ray.lm.build import (
    build_model,
    check_none_missing,
    check_shapes,
    use_generation_config,
)
from longva_ray.lm.layout import LANGUAGE, VISION, open_checkpoint
from longva_ray.lm.longva import LongVAForConditionalGeneration, build_frame_encoder
from longva_ray.lm.processor import LongVAProcessor, processor_for
from longva_ray.lm.rope import assert_rope
from longva_ray.vision.frame_encoder import FrameEncoder


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
    model = build_model(
        LongVAForConditionalGeneration,
        checkpoint.config,
        checkpoint.tensors((VISION, LANGUAGE), dtype),
        source=checkpoint.folder,
        dtype=dtype,
        attn_implementation=attn_implementation and {"text_config": attn_implementation},
    )
    use_generation_config(model, checkpoint.folder, checkpoint.config)
    assert_rope(model.language_model, checkpoint.config.text)
    tokens_per_grid = model.frame_encoder.tokens_per_grid
    processor = processor_for(checkpoint.config, tokenizer, tokens_per_grid=tokens_per_grid)
    return model, processor


def load_frame_encoder(path: str | Path, *, dtype: torch.dtype) -> FrameEncoder:
    """The frame encoder alone, in evaluation mode; arguments as `load_longva`."""
    checkpoint = open_checkpoint(path)
    tensors = checkpoint.tensors((VISION,), dtype)
    with no_init_weights():
        encoder = build_frame_encoder(checkpoint.config)
    weights = {name.removeprefix(VISION): tensor for name, tensor in tensors.items()}
    wanted = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    check_none_missing(sorted(wanted.keys() - weights.keys()), path)
    check_shapes(
        [
            (name, weights[name].shape, shape)
            for name, shape in wanted.items()
            if weights[name].shape != shape
        ],
        path,
    )
    encoder.load_state_dict(weights, assign=True)
    encoder.source = str(path)
    return encoder.eval()
