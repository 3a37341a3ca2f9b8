"""A new LongVA checkpoint: of random weights, or of a language model and a vision tower.

    LongVAConfig, tokenizer | language model, CLIP -> folder with weights and processor

Joining is where vision alignment starts: only the projector is random. Training is not done here.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from longva_ray.lm.build import build_model, use_generation_config
from longva_ray.lm.halves import language_half, tower_half
from longva_ray.lm.layout import NEWLINE, PROJECTOR, open_checkpoint
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.processor import processor_for
from longva_ray.lm.prompt import add_placeholders, placeholder_ids
from longva_ray.lm.weights import save_folder
from longva_ray.video.fitting import Fitting
from longva_ray.vision.encoding import MAX_GRIDS, Encoding
from longva_ray.vision.projector import ProjectorKind
from longva_ray.vision.unires import GridRule


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
    projector_of: str | Path | None = None,
) -> None:
    """Join a text backbone and a CLIP tower by a projector and save it all to `path`.

    The starting point of vision alignment (paper, section 3.2): the backbone is the
    context-extended language model.

    Args:
        text_backbone: checkpoint of a Qwen2- or Llama-shaped causal model with a ChatML tokenizer,
            or of a LongVA, whose language model is taken.
        clip: checkpoint of a `CLIPModel` or `CLIPVisionModel`, or of a LongVA, whose tower is
            taken.
        seed: of a fresh projector.
        path: the new folder.
        dtype: of the saved weights.
        grid_rule: see `longva_ray.vision.unires`.
        frame_fitting: see `longva_ray.video.fitting`.
        encoding: of images, see `longva_ray.vision.encoding`; it decides the most grids, too.
        projector: see `longva_ray.vision.projector`.
        projector_of: a LongVA whose trained projector is taken, whatever its kind, in place of a
            fresh one. The newline of AnyRes is fresh if that one has none.

    Raises:
        ValueError: `path` exists, a source is not what it should be, or lacks weights.
    """
    # Entered first, so that an existing folder is reported before minutes of loading.
    with save_folder(Path(path)) as folder:
        language, tower = language_half(text_backbone), tower_half(clip)
        image_token_id, video_token_id = add_placeholders(language.tokenizer)
        config = LongVAConfig(
            vision_config=tower.config,
            vision_feature_layer=tower.feature_layer,
            text_config=language.config,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            grid_rule=grid_rule,
            frame_fitting=frame_fitting,
            encoding=encoding,
            max_grids=MAX_GRIDS[encoding],
            projector=projector,
        )
        for part in (config.vision, config.text):
            part.name_or_path = ""  # a place on this machine means nothing elsewhere
        tensors = tower.tensors(dtype) | language.tensors(dtype)
        fresh = PROJECTOR
        if projector_of is not None:
            trained = open_checkpoint(projector_of)
            config.projector = trained.config.projector
            config.projector_hidden_act = trained.config.projector_hidden_act
            fresh = NEWLINE
            weights = trained.tensors((PROJECTOR,), dtype)
            if encoding == "unires":
                weights.pop(NEWLINE + "weight", None)
            tensors |= weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(
                LongVAForConditionalGeneration,
                config,
                tensors,
                source=f"{text_backbone} with {clip}"
                + (f" and the projector of {projector_of}" if projector_of else ""),
                dtype=dtype,
                attn_implementation=None,
                fresh=fresh,
            )
        model.give_words_to_projector()
        use_generation_config(model, language.folder, config)
        _save(model, language.tokenizer, folder)


def _save(
    model: LongVAForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    assert model.config.placeholder_ids == placeholder_ids(tokenizer)
    tokens_per_grid = model.frame_encoder.tokens_per_grid
    processor = processor_for(model.config, tokenizer, tokens_per_grid=tokens_per_grid)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
