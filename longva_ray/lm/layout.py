"""A LongVA checkpoint on disk: its configuration, and which stored weight is which of ours.

    folder (or hub name) -> Checkpoint: LongVAConfig, tokenizer, {our name: tensor}

Two layouts are read: ours (`save_pretrained`) and the original LongVA one (`released`). Only the
wanted weights are read: a file that holds only the other half of the model is not even opened.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longva_ray.lm import released
from longva_ray.lm.auto_classes import register_config
from longva_ray.lm.base_models import kind_of_checkpoint, read_config
from longva_ray.lm.longva_config import ARCHITECTURE, LongVAConfig
from longva_ray.lm.prompt import add_placeholders
from longva_ray.lm.rope import stretch
from longva_ray.lm.tower_weights import TOWER, clip_config, clip_tensors, is_built
from longva_ray.lm.weights import Rename, checkpoint_folder, read_tensors, reads_folder
from longva_ray.vision.tower_config import num_layers_used

logger = logging.getLogger(__name__)


VISION, LANGUAGE = "frame_encoder.", "language_model."
"""What the names of our weights begin with, in each half of the model."""


PROJECTOR = VISION + "projector."


NEWLINE = PROJECTOR + "newline."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder of weights, their names there, and the configuration of their model."""

    folder: Path
    config: LongVAConfig
    rename: Rename
    mm_vision_tower: str | None = None
    """What a released checkpoint calls its vision tower; None in our layout."""

    def tensors(self, prefixes: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Weights whose name in our model starts with one of the prefixes."""
        feature_layer = self.config.vision_feature_layer
        num_layers = num_layers_used(self.config.vision, feature_layer)

        def select(stored: str) -> str | None:
            name = self.rename(stored)
            wanted = name.startswith(tuple(prefixes)) and is_built(name, num_layers)
            return name if wanted else None

        tensors = read_tensors(self.folder, select, dtype)
        wants_tower = TOWER.startswith(tuple(prefixes))
        has_tower = any(name.startswith(TOWER) for name in tensors)
        if wants_tower and not has_tower and self.mm_vision_tower is not None:
            logger.info("vision tower weights are read from %s", self.mm_vision_tower)
            folder = checkpoint_folder(self.mm_vision_tower)
            tensors |= clip_tensors(folder, feature_layer, dtype)
        return tensors

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with placeholders; those of a released checkpoint get theirs here."""
        with reads_folder(self.folder):
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
    """Read the configuration, with another RoPE base or prompt limit where one is given.

    Raises:
        ValueError: no LongVA checkpoint, or one with an unsupported setting.
    """
    register_config()
    kind = kind_of_checkpoint(path)
    if kind == "longva":
        folder = checkpoint_folder(path)
        with reads_folder(folder):
            config = LongVAConfig.from_pretrained(folder)
        checkpoint = Checkpoint(folder=folder, config=config, rename=_same_name)
    elif kind == "released":
        checkpoint = _open_released(path)
    else:
        found = None if kind == "gguf" else read_config(path).get("architectures")
        raise ValueError(
            f"{path} holds {found or 'no architectures'}, want {ARCHITECTURE} or "
            f"{released.ARCHITECTURE}; a text backbone and a CLIP tower are joined by `longva join`"
        )
    stretch(checkpoint.config.text, rope_theta=rope_theta)
    if max_prompt_tokens is not None:
        checkpoint.config.max_prompt_tokens = max_prompt_tokens
    return checkpoint


def load_longva_config(path: str | Path) -> LongVAConfig:
    """The configuration of a checkpoint; reads no weights."""
    return open_checkpoint(path).config


def _same_name(stored: str) -> str:
    return stored


def _open_released(path: str | Path) -> Checkpoint:
    raw = read_config(path)
    tower = raw.get("mm_vision_tower", released.CLIP_L_336_NAME)
    is_clip_l = tower == released.CLIP_L_336_NAME
    vision_config = released.clip_l_336() if is_clip_l else clip_config(checkpoint_folder(tower))[0]
    return Checkpoint(
        folder=checkpoint_folder(path),
        config=released.our_config(raw, vision_config),
        rename=released.our_name,
        mm_vision_tower=tower,
    )
