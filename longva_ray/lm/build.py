"""A model built around weights that were read: nothing random, nothing missing.

    model class, config, {name: tensor} -> model in evaluation mode on the CPU

What every way to a model ends in: loading one, its halves, and joining a new one. A weight that is
missing is an error, not a random initialisation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from longva_ray.lm.longva import forbid_placeholders
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.weights import reads_folder

logger = logging.getLogger(__name__)

_OF_A_LAYER = re.compile(r"\blayers\.\d+\..*\.(weight|bias)$")
"""What a model computes with. Older checkpoints also keep tables, such as inverse frequencies."""


def build_model(
    model_class: Any,
    config: PreTrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str | Path,
    dtype: torch.dtype,
    attn_implementation: Any,
    fresh: str | None = None,
) -> Any:
    """A model with these weights; only names that start with `fresh` may be missing.

    Args:
        source: what the weights were read from, for an error.

    Raises:
        ValueError: weights are missing, of another shape, or of a layer that the config lacks.
    """
    model, report = model_class.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, with a name
        **({"attn_implementation": attn_implementation} if attn_implementation else {}),
    )
    check_loaded(report, source, fresh=fresh)
    return model


def check_loaded(
    report: Mapping[str, Any], source: str | Path, *, fresh: str | None = None
) -> None:
    """Raises ValueError for what transformers reports of loading: weights that are missing, but for
    names that start with `fresh`, or of another shape, or that no layer of the model takes."""
    missing = sorted(report["missing_keys"])
    check_none_missing(
        [name for name in missing if fresh is None or not name.startswith(fresh)], source
    )
    check_shapes(report["mismatched_keys"], source)
    check_none_left(
        [name for name in report["unexpected_keys"] if _OF_A_LAYER.search(name)], source
    )


def check_none_left(left: Sequence[str], source: str | Path) -> None:
    """Raises ValueError when any name is given: no layer takes these weights."""
    if left:
        raise ValueError(
            f"{source} has {len(left)} weight(s) that no layer of its config.json takes, the "
            f"first: {', '.join(left[:4])}; config.json says fewer layers than there are, or "
            "layers without such weights"
        )


def check_none_missing(missing: Sequence[str], source: str | Path) -> None:
    """Raises ValueError when any name is given: these weights are missing."""
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} weight(s), the first: {', '.join(missing[:4])}; it is "
            "incomplete or of another shape than its config.json says"
        )


def check_shapes(
    wrong: Collection[tuple[str, Sequence[int], Sequence[int]]], source: str | Path
) -> None:
    """Raises ValueError when any weight is given, by its name, its shape and the one wanted."""
    for name, has, wanted in sorted(wrong):
        raise ValueError(
            f"{source} has {len(wrong)} weight(s) of another shape than its config.json says, the "
            f"first: {name}, {list(has)}, want {list(wanted)}; the folder mixes two checkpoints"
        )


def use_generation_config(model: PreTrainedModel, folder: Path, config: LongVAConfig) -> None:
    """Use the checkpoint's generation config and say what of it changes even greedy decoding."""
    if (folder / "generation_config.json").exists():
        with reads_folder(folder):
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
