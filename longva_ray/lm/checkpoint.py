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

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from longva_ray.lm import released
from longva_ray.lm.longva import (
    LongVAConfig,
    LongVAForConditionalGeneration,
    build_frame_encoder,
    forbid_placeholders,
)
from longva_ray.lm.processor import LongVAProcessor, processor_for
from longva_ray.lm.prompt import add_placeholders, check_prompt_length, placeholder_ids
from longva_ray.lm.rope import assert_rope
from longva_ray.lm.tower_weights import TOWER, clip_config, clip_tensors, is_built
from longva_ray.lm.weights import Rename, read_tensors, resolve, save_folder
from longva_ray.video.fitting import Fitting
from longva_ray.vision.encoding import MAX_GRIDS, Encoding
from longva_ray.vision.frame_encoder import FrameEncoder
from longva_ray.vision.projector import ProjectorKind
from longva_ray.vision.unires import GridRule

logger = logging.getLogger(__name__)

OUR_ARCHITECTURE = LongVAForConditionalGeneration.__name__
_VISION, _LANGUAGE = "frame_encoder.", "language_model."
_PROJECTOR = _VISION + "projector."


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


def register() -> None:
    """Make transformers' Auto classes know LongVA: config, model, processor; repeatable.

    Importing this package registers nothing. Every loader here calls this; call it yourself before
    using `AutoModelForImageTextToText.from_pretrained` on a checkpoint of ours.
    """
    AutoConfig.register(LongVAConfig.model_type, LongVAConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        LongVAConfig, LongVAForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(LongVAConfig, LongVAProcessor, exist_ok=True)


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
    checkpoint = _open(path, rope_theta=rope_theta, max_prompt_tokens=max_prompt_tokens)
    tokenizer = checkpoint.tokenizer()
    model = _load(
        LongVAForConditionalGeneration,
        checkpoint.config,
        checkpoint.tensors((_VISION, _LANGUAGE), dtype),
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
    checkpoint = _open(path, rope_theta=rope_theta, max_prompt_tokens=max_prompt_tokens)
    tokenizer = checkpoint.tokenizer()
    tensors = checkpoint.tensors((_LANGUAGE,), dtype)
    model = _load(
        MODEL_FOR_CAUSAL_LM_MAPPING[type(checkpoint.config.text)],
        checkpoint.config.text,
        {name.removeprefix(_LANGUAGE): tensor for name, tensor in tensors.items()},
        dtype=dtype,
        attn_implementation=attn_implementation,
    )
    _apply_generation_config(model, checkpoint.folder, checkpoint.config)
    assert_rope(model, checkpoint.config.text)
    return LoadedLanguageModel(model=model, tokenizer=tokenizer, config=checkpoint.config)


def load_frame_encoder(path: str | Path, *, dtype: torch.dtype) -> FrameEncoder:
    """The frame encoder alone, in evaluation mode; arguments as `load_longva`."""
    checkpoint = _open(path)
    tensors = checkpoint.tensors((_VISION,), dtype)
    with no_init_weights():
        encoder = build_frame_encoder(checkpoint.config)
    weights = {name.removeprefix(_VISION): tensor for name, tensor in tensors.items()}
    _check_none_missing(sorted(set(encoder.state_dict()) - set(weights)))
    encoder.load_state_dict(weights, assign=True)
    return encoder.eval()


def load_longva_config(path: str | Path) -> LongVAConfig:
    """The configuration of a checkpoint; reads no weights."""
    return _open(path).config


def initialise_longva(
    config: LongVAConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int, path: str | Path
) -> None:
    """Save a model with random weights and its processor; the same seed gives the same bytes.

    The tokenizer decides the placeholder ids, and the end-of-turn and padding tokens of generation.

    Raises:
        ValueError: `path` exists, or the tokenizer has no ChatML tokens.
    """
    config = copy.deepcopy(config)
    config.image_token_id, config.video_token_id = add_placeholders(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LongVAForConditionalGeneration(config)
    model.give_words_to_projector()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with save_folder(Path(path)) as folder:
        _save(model, tokenizer, folder)


def assemble_longva(
    text_backbone: str | Path,
    clip: str | Path,
    *,
    seed: int,
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    grid_rule: GridRule = "paper",
    frame_fitting: Fitting = "letterbox",
    encoding: Encoding = "unires",
    projector: ProjectorKind = "mlp",
) -> None:
    """Join a text backbone and a CLIP tower by a fresh projector and save it all to `path`.

    The starting point of vision alignment (paper, section 3.2): the backbone is the
    context-extended language model.

    Args:
        text_backbone: checkpoint of a Qwen2- or Llama-shaped causal model with a ChatML tokenizer.
        clip: checkpoint of a `CLIPModel` or `CLIPVisionModel`.
        seed: of the projector.
        path: the new folder.
        dtype: of the saved weights.
        grid_rule: see `longva_ray.vision.unires`.
        frame_fitting: see `longva_ray.video.fitting`.
        encoding: of images, see `longva_ray.vision.encoding`; it decides the most grids, too.
        projector: see `longva_ray.vision.projector`.

    Raises:
        ValueError: `path` exists, a source is not what it should be, or lacks weights.
    """
    # Entered first: that there is something already is said before minutes of loading.
    with save_folder(Path(path)) as folder:
        text_folder, clip_folder = resolve(text_backbone), resolve(clip)
        tokenizer = AutoTokenizer.from_pretrained(text_folder)
        image_token_id, video_token_id = add_placeholders(tokenizer)
        config = LongVAConfig(
            vision_config=clip_config(clip_folder),
            text_config=AutoConfig.from_pretrained(text_folder),
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            grid_rule=grid_rule,
            frame_fitting=frame_fitting,
            encoding=encoding,
            max_grids=MAX_GRIDS[encoding],
            projector=projector,
        )
        for part in (config.vision, config.text):
            part.name_or_path = ""  # where the parts lay means nothing to whom the whole is given
        tensors = read_tensors(text_folder, lambda stored: _LANGUAGE + stored, dtype)
        tensors |= clip_tensors(clip_folder, config, dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _load(
                LongVAForConditionalGeneration,
                config,
                tensors,
                dtype=dtype,
                attn_implementation=None,
                fresh=_PROJECTOR,
            )
        model.give_words_to_projector()
        _apply_generation_config(model, text_folder, config)
        _save(model, tokenizer, folder)


@dataclass(frozen=True, kw_only=True)
class _Checkpoint:
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
        if _VISION in prefixes and not has_tower and self.mm_vision_tower is not None:
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


def _open(
    path: str | Path, *, rope_theta: float | None = None, max_prompt_tokens: int | None = None
) -> _Checkpoint:
    register()
    folder = resolve(path)
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} has no config.json; the result of a run is in its folder final")
    raw = json.loads((folder / "config.json").read_text())
    architectures = raw.get("architectures") or []
    if OUR_ARCHITECTURE in architectures:
        config = LongVAConfig.from_pretrained(folder)
        checkpoint = _Checkpoint(folder=folder, config=config, rename=_same_name)
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


def _open_released(folder: Path, raw: Mapping[str, Any]) -> _Checkpoint:
    tower = raw.get("mm_vision_tower", released.CLIP_L_336_NAME)
    is_clip_l = tower == released.CLIP_L_336_NAME
    vision_config = released.clip_l_336() if is_clip_l else clip_config(resolve(tower))
    return _Checkpoint(
        folder=folder,
        config=released.our_config(raw, vision_config),
        rename=released.our_name,
        mm_vision_tower=tower,
    )


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


def _save(
    model: LongVAForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    assert model.config.placeholder_ids == placeholder_ids(tokenizer)
    tokens_per_grid = model.frame_encoder.tokens_per_grid
    processor = processor_for(model.config, tokenizer, tokens_per_grid=tokens_per_grid)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
