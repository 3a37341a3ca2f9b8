"""What a checkpoint is made of: whose weights have which names, ours or the released ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from longva_ray.lm import released
from longva_ray.lm.longva import (
    LongVAConfig,
    LongVAForConditionalGeneration,
)
from longva_ray.lm.processor import LongVAProcessor
from longva_ray.lm.prompt import add_placeholders
from longva_ray.lm.tower_weights import TOWER, clip_config, clip_tensors, is_built
from longva_ray.lm.weights import Rename, read_tensors, resolve

logger = logging.getLogger(__name__)


OUR_ARCHITECTURE = LongVAForConditionalGeneration.__name__


VISION, LANGUAGE = "frame_encoder.", "language_model."


PROJECTOR = VISION + "projector."


def register_longva() -> None:
    """Make transformers' Auto classes know LongVA: config, model, processor; repeatable.

    Importing this package registers nothing. Every loader here calls this; call it yourself before
    using `AutoModelForImageTextToText.from_pretrained` on a checkpoint of ours.
    """
    AutoConfig.register(LongVAConfig.model_type, LongVAConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        LongVAConfig, LongVAForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(LongVAConfig, LongVAProcessor, exist_ok=True)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder of weights, their names there, and the configuration of their model."""

    folder: Path
    config: LongVAConfig
    rename: Rename
    mm_vision_tower: str | None = None

    def tensors(self, prefixes: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Weights whose name in our model starts with one of the prefixes."""

        def select(stored: str) -> str | None:
            name = self.rename(stored)
            wanted = name.startswith(tuple(prefixes)) and is_built(name, self.config)
            return name if wanted else None

        tensors = read_tensors(self.folder, select, dtype)
        has_tower = any(name.startswith(TOWER) for name in tensors)
        if VISION in prefixes and not has_tower and self.mm_vision_tower is not None:
            logger.info("vision tower weights are read from %s", self.mm_vision_tower)
            tensors |= clip_tensors(resolve(self.mm_vision_tower), self.config, dtype)
        return tensors

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with placeholders; those of a released checkpoint get theirs here."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder, config=self.config.text)
        ids = add_placeholders(tokenizer)
        if self.mm_vision_tower is not None:
            self.config.image_token_id, self.config.video_token_id = ids
        if ids != self.config.placeholder_ids:
            raise ValueError(
                f"{self.folder}: the tokenizer has <image>, <video> as {ids}, config.json as "
                f"{self.config.placeholder_ids}; the folder mixes files of two checkpoints"
            )
        return tokenizer


def open_checkpoint(
    path: str | Path, *, rope_theta: float | None = None, max_prompt_tokens: int | None = None
) -> Checkpoint:
    register_longva()
    folder = resolve(path)
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} has no config.json; the result of a run is in its folder final")
    raw = json.loads((folder / "config.json").read_text())
    architectures = raw.get("architectures") or []
    if OUR_ARCHITECTURE in architectures:
        config = LongVAConfig.from_pretrained(folder)
        checkpoint = Checkpoint(folder=folder, config=config, rename=_same_name)
    elif released.ARCHITECTURE in architectures:
        checkpoint = _open_released(folder, raw)
    else:
        raise ValueError(
            f"{folder} holds {architectures or 'no architectures'}, want {OUR_ARCHITECTURE} or "
            f"{released.ARCHITECTURE}; a text backbone and a CLIP tower are joined by `longva join`"
        )
    if rope_theta is not None:
        text_config = checkpoint.config.text
        text_config.rope_parameters = {**text_config.rope_parameters, "rope_theta": rope_theta}
    if max_prompt_tokens is not None:
        checkpoint.config.max_prompt_tokens = max_prompt_tokens
    return checkpoint


def _same_name(stored: str) -> str:
    return stored


def _open_released(folder: Path, raw: Mapping[str, Any]) -> Checkpoint:
    tower = raw.get("mm_vision_tower", released.CLIP_L_336_NAME)
    is_clip_l = tower == released.CLIP_L_336_NAME
    vision_config = released.clip_l_336() if is_clip_l else clip_config(resolve(tower))
    return Checkpoint(
        folder=folder,
        config=released.our_config(raw, vision_config),
        rename=released.our_name,
        mm_vision_tower=tower,
    )
