"""A model built around weights that were read: nothing random, nothing missing.

    model class, config, {name: tensor} -> model in evaluation mode on the CPU

What every way to a model ends in: loading one, its halves, and joining a new one. A weight that is
missing is an error, not a random initialisation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from longva_ray.lm.longva import forbid_placeholders
from longva_ray.lm.longva_config import LongVAConfig

logger = logging.getLogger(__name__)


def build_model(
    model_class: Any,
    config: PreTrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    attn_implementation: Any,
    fresh: str | None = None,
) -> Any:
    """A model with these weights; only names that start with `fresh` may be missing.

    Raises:
        ValueError: weights are missing.
    """
    model, report = model_class.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        dtype=dtype,
        output_loading_info=True,
        **({"attn_implementation": attn_implementation} if attn_implementation else {}),
    )
    missing = sorted(report["missing_keys"])
    check_none_missing([name for name in missing if fresh is None or not name.startswith(fresh)])
    return model


def check_none_missing(missing: Sequence[str]) -> None:
    """Raises ValueError when any name is given: these weights are missing."""
    if missing:
        raise ValueError(
            f"the checkpoint lacks {len(missing)} weight(s), the first: {', '.join(missing[:4])}; "
            "it is incomplete or of another shape than its config.json says"
        )


def use_generation_config(model: PreTrainedModel, folder: Path, config: LongVAConfig) -> None:
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
