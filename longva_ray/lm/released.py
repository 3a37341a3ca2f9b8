"""The layout of the original LongVA checkpoints (`LlavaQwenForCausalLM`), translated to ours.

    config.json of lmms-lab/LongVA-7B -> LongVAConfig;  stored weight name -> our weight name

The released config is a flat Qwen2 config with `mm_*` keys and without the vision tower's own
settings. A value this package cannot honour is an error that names key, got and wanted, never a
silent default. `grid_rule` is "released" for these checkpoints, frames of videos are cropped as in
the released chat and benchmarks while images keep their letterbox, and `tokenizer_model_max_length`
becomes `max_prompt_tokens`: the released code cuts longer prompts off, and with them the question,
which comes last.

Reads no weights and no files.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CLIPVisionConfig, Qwen2Config

from longva_ray.lm.longva_config import CLIP_L_336, LongVAConfig

ARCHITECTURE = "LlavaQwenForCausalLM"


CLIP_L_336_NAME = "openai/clip-vit-large-patch14-336"


# What the released code's UniRes is made of. A key that the file lacks has the released default,
# which is this value.
_ONLY_VALUES: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_patch_merge_type": ("unires",),
    "image_aspect_ratio": ("anyres",),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "use_mm_proj": (True,),
    "mm_spatial_pool_stride": (2,),
    "mm_spatial_pool_mode": ("average",),
    "mm_resampler_type": (None, "spatial_pool"),  # the second is read nowhere on the path of UniRes
}


_REQUIRED = (
    "mm_vision_tower",
    "mm_vision_select_layer",
    "mm_projector_type",
    "mm_patch_merge_type",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "rope_theta",
)


_RENAMED = (
    (r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?", "frame_encoder.tower.clip."),
    (r"^model\.mm_projector\.0\.", "frame_encoder.projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "frame_encoder.projector.linear_2."),
    (r"^(model|lm_head)\.", r"language_model.\1."),
)


def our_name(stored: str) -> str:
    """Weight name in `LongVAForConditionalGeneration` of a weight stored in the released layout."""
    for pattern, replacement in _RENAMED:
        renamed, count = re.subn(pattern, replacement, stored)
        if count:
            return renamed
    raise ValueError(f"weight {stored!r} is not one of a {ARCHITECTURE} checkpoint")


def our_config(released: Mapping[str, Any], vision_config: CLIPVisionConfig) -> LongVAConfig:
    """Configuration of a released checkpoint.

    Args:
        released: its config.json.
        vision_config: of the tower it names (`mm_vision_tower`).

    Raises:
        ValueError: a value that cannot be honoured, or a missing key.
    """
    _check_values(released, vision_config)
    fields = {field.name for field in dataclasses.fields(Qwen2Config)}
    text = {key: value for key, value in released.items() if key in fields}
    # The released code sets rope_scaling to None whatever the file says; only the base counts.
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": float(released["rope_theta"])}
    config = LongVAConfig(
        vision_config=vision_config,
        text_config=Qwen2Config(**text),
        vision_feature_layer=released["mm_vision_select_layer"],
        grid_rule="released",
        video_fitting="center_crop",
        max_prompt_tokens=released.get("tokenizer_model_max_length"),
    )
    config.max_grids = _max_grids(released["image_grid_pinpoints"], config.grid_size)
    return config


def clip_l_336() -> CLIPVisionConfig:
    """The tower of the published checkpoints, which need not be fetched to know its shape."""
    return CLIPVisionConfig(**CLIP_L_336)


def _check_values(released: Mapping[str, Any], vision_config: CLIPVisionConfig) -> None:
    for key in _REQUIRED:
        if key not in released:
            raise ValueError(f"config.json of a {ARCHITECTURE} checkpoint lacks {key!r}")
    wanted = {**_ONLY_VALUES, "mm_hidden_size": (vision_config.hidden_size,)}
    for key, values in wanted.items():
        if key in released and released[key] not in values:
            raise ValueError(
                f"config.json has {key}={released[key]!r}, want {' or '.join(map(repr, values))}: "
                "only the UniRes model of the paper can be loaded"
            )


def _max_grids(pinpoints: Sequence[Sequence[int]], grid_size: int) -> int:
    """The limit n of a list of all canvases of 2 to n grids (published list: n = 49)."""
    if isinstance(pinpoints, str):
        raise ValueError(
            f"config.json has image_grid_pinpoints={pinpoints!r}, want a list of [width, height]"
        )
    canvases = {(width / grid_size, height / grid_size) for width, height in pinpoints}
    max_grids = int(max(columns * rows for columns, rows in canvases))
    every = {
        (columns, rows)
        for columns in range(1, max_grids + 1)
        for rows in range(1, max_grids // columns + 1)
        if columns * rows > 1
    }
    if canvases != every:
        raise ValueError(
            f"config.json has {len(canvases)} canvases in image_grid_pinpoints, want all "
            f"{len(every)} of 2 to {max_grids} grids of {grid_size} pixels, like the published list"
        )
    return max_grids
