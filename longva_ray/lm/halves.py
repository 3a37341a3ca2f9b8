"""Either half of a checkpoint, as it is stored: what joining and splitting start from.

    LongVA | causal language model -> LanguageHalf
    LongVA | CLIP                  -> TowerHalf

Of a LongVA checkpoint, in our layout or the released one, the half that is wanted is taken; so a
checkpoint of both goes wherever one of one goes. The projector belongs to neither: it fits only the
two it was trained between. Weights are read when asked for. `language_model` and `load` build the
models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, PreTrainedConfig, PreTrainedTokenizerBase

from longva_ray.lm.base_models import is_longva, load_tokenizer
from longva_ray.lm.gguf import is_gguf
from longva_ray.lm.language_model import language_config
from longva_ray.lm.layout import LANGUAGE, open_checkpoint
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.tower_weights import TOWER, clip_config, clip_tensors
from longva_ray.lm.weights import checkpoint_folder, read_tensors

ReadTensors = Callable[[torch.dtype], dict[str, Tensor]]
"""Weights under the names that they have in LongVA, cast to a number format."""


@dataclass(frozen=True, kw_only=True)
class LanguageHalf:
    """A language model with its tokenizer."""

    folder: Path
    """Where its generation config is."""
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    tensors: ReadTensors


@dataclass(frozen=True, kw_only=True)
class TowerHalf:
    """A vision tower, and which of its hidden states is used."""

    config: CLIPVisionConfig
    """Of the whole tower, even where the layers after the one that is used were not kept."""
    feature_layer: int
    tensors: ReadTensors


def language_half(path: str | Path) -> LanguageHalf:
    """The language model of a folder or hub name.

    Raises:
        ValueError: there is none, or it is a GGUF file.
    """
    if is_longva(path):
        checkpoint = open_checkpoint(path)
        return LanguageHalf(
            folder=checkpoint.folder,
            config=checkpoint.config.text,
            tokenizer=checkpoint.tokenizer(),
            tensors=partial(checkpoint.tensors, (LANGUAGE,)),
        )
    if is_gguf(path):
        raise ValueError(
            f"{path} is a GGUF file, want a folder of weights; jobs/extend_text.py makes one, "
            "STORAGE/NAME/base, and extends that"
        )
    folder = checkpoint_folder(path)
    return LanguageHalf(
        folder=folder,
        config=language_config(path),
        tokenizer=load_tokenizer(str(folder)),
        tensors=partial(read_tensors, folder, lambda stored: LANGUAGE + stored),
    )


def tower_half(path: str | Path) -> TowerHalf:
    """The vision tower of a folder or hub name. Where it was cut, the last layer that was kept is
    the one that is used.

    Raises:
        ValueError: there is none. For a cut tower of unknown depth, when its weights are read.
    """
    if is_longva(path):
        checkpoint = open_checkpoint(path)
        return TowerHalf(
            config=checkpoint.config.vision,
            feature_layer=checkpoint.config.vision_feature_layer,
            tensors=partial(checkpoint.tensors, (TOWER,)),
        )
    folder = checkpoint_folder(path)
    config, kept = clip_config(folder)
    feature_layer = LongVAConfig.vision_feature_layer
    if kept is not None:
        feature_layer = kept - (config.num_hidden_layers + 1)
    return TowerHalf(
        config=config,
        feature_layer=feature_layer,
        tensors=partial(clip_tensors, folder, feature_layer),
    )
