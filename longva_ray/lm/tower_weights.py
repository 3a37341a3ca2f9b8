"""The vision tower's weights and configuration out of a CLIP checkpoint.

    folder of a CLIPModel or CLIPVisionModel -> CLIPVisionConfig, {our name: tensor}

Leaves out what `ClipTower` does not build: the layers after the one that is used, the norm of the
pooled token, and the text half of a `CLIPModel`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, CLIPConfig, CLIPVisionConfig

from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.weights import read_tensors
from longva_ray.vision.clip_tower import num_layers_used

TOWER = "frame_encoder.tower.clip."


_LAYERS = TOWER + "encoder.layers."


_USED = (TOWER + "embeddings.", TOWER + "pre_layrnorm.", _LAYERS)


def clip_config(folder: Path) -> CLIPVisionConfig:
    """The tower's configuration.

    Raises:
        ValueError: the folder holds another kind of model.
    """
    config = AutoConfig.from_pretrained(folder)
    if isinstance(config, CLIPConfig):
        config = config.vision_config
    if not isinstance(config, CLIPVisionConfig):
        raise ValueError(f"{folder} holds a {type(config).__name__}, want a CLIP vision tower")
    return config


def clip_tensors(folder: Path, config: LongVAConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tower's weights under our names, cast to `dtype`."""

    def select(stored: str) -> str | None:
        name = TOWER + stored.removeprefix("vision_model.")
        return name if is_built(name, config) else None

    return read_tensors(folder, select, dtype)


def is_built(name: str, config: LongVAConfig) -> bool:
    """Whether a weight named as in our model exists in it; anything outside the tower does."""
    if not name.startswith(TOWER):
        return True
    if name.startswith(_LAYERS):
        depth = num_layers_used(config.vision, config.vision_feature_layer)
        return int(name.removeprefix(_LAYERS).split(".")[0]) < depth
    # old CLIP checkpoints store the position ids, a constant, as if they were a weight
    return name.startswith(_USED) and not name.endswith(".position_ids")
