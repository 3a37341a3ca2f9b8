"""The vision tower's weights and configuration out of a CLIP checkpoint.

    folder of a CLIPModel or CLIPVisionModel -> CLIPVisionConfig, {our name: tensor}

Leaves out what `ClipTower` does not build: the layers after the one that is used, the norm of the
pooled token, and the text half of a `CLIPModel`.

A tower may have been saved without these, that is, cut. Layers are counted from the end, so one has
to know how many there were: the configuration says it, or the tower is refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, CLIPConfig, CLIPVisionConfig

from longva_ray.lm.weights import read_tensors, reads_folder
from longva_ray.vision.tower_config import num_layers_used

TOWER = "frame_encoder.tower.clip."


_LAYERS = TOWER + "encoder.layers."


_USED = (TOWER + "embeddings.", TOWER + "pre_layrnorm.", _LAYERS)


_NOT_USED = TOWER + "post_layernorm."
"""What every whole CLIP tower has, and a cut one has not."""


def clip_config(folder: Path) -> tuple[CLIPVisionConfig, int | None]:
    """The configuration of the whole tower, and how many layers a cut one has kept; None, all.

    Raises:
        ValueError: the folder holds another kind of model.
    """
    with reads_folder(folder):
        config = AutoConfig.from_pretrained(folder)
    if isinstance(config, CLIPConfig):
        config = config.vision_config
    if not isinstance(config, CLIPVisionConfig):
        raise ValueError(f"{folder} holds a {type(config).__name__}, want a CLIP vision tower")
    if not hasattr(config, "layers_of_whole_tower"):
        return config, None
    kept, config.num_hidden_layers = config.num_hidden_layers, config.layers_of_whole_tower
    del config.layers_of_whole_tower
    return config, kept


def clip_tensors(folder: Path, feature_layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tower up to the layer that is used, under our names, cast to `dtype`.

    Raises:
        ValueError: the tower was cut, and nothing says how many layers it had.
    """
    config, kept = clip_config(folder)
    num_layers = num_layers_used(config, feature_layer)
    names = set()

    def select(stored: str) -> str | None:
        name = TOWER + stored.removeprefix("vision_model.")
        names.add(name)
        return name if is_built(name, num_layers) else None

    tensors = read_tensors(folder, select, dtype)
    has_all_layers = any(_layer(name) == config.num_hidden_layers - 1 for name in names)
    was_cut = not any(name.startswith(_NOT_USED) for name in names)
    if kept is None and was_cut and has_all_layers:
        raise ValueError(
            f"{folder} holds {config.num_hidden_layers} layers and no post_layernorm: a tower that "
            "was cut after the layer that is used, and its layers are counted from the end; add "
            '"layers_of_whole_tower" to its config.json, the number before the cut (24 for CLIP '
            "ViT-L/14), or give the whole tower"
        )
    return tensors


def is_built(name: str, num_layers: int) -> bool:
    """Whether a weight named as in our model exists in it; anything outside the tower does."""
    if not name.startswith(TOWER):
        return True
    layer = _layer(name)
    if layer is not None:
        return layer < num_layers
    # old CLIP checkpoints store the position ids, a constant, as if they were a weight
    return name.startswith(_USED) and not name.endswith(".position_ids")


def _layer(name: str) -> int | None:
    return int(name.removeprefix(_LAYERS).split(".")[0]) if name.startswith(_LAYERS) else None
