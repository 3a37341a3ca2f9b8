"""Named complete recipes: `get_recipe("tiny")`, `get_recipe("longva_7b")`.

A recipe is what a job starts from; single settings are then overridden on the command line. Recipes
without a checkpoint carry a model architecture too: `materialise` writes their weights once, from a
fixed seed, so that every later step reads an ordinary checkpoint folder and no code path is special
to small models."""

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longva_ray.config import (
    AlignConfig,
    EncodeConfig,
    ExtendConfig,
    ImageDataConfig,
    NiahConfig,
    Recipe,
    ServeConfig,
    TextDataConfig,
    VniahConfig,
)

if TYPE_CHECKING:
    from longva_ray.lm.longva import LongVAConfig

logger = logging.getLogger(__name__)


def tiny() -> Recipe:
    """0.4M parameters, 56-pixel frames, 4 tokens a frame: the whole system on a laptop's CPU in
    seconds."""
    return Recipe(
        name="tiny",
        description="whole system on two CPU cores; random weights, so its answers mean nothing",
        checkpoint=None,
        encode=EncodeConfig(dtype="float32", encoder_cpus=0.5, encoder_gpus=0, decode_cpus=0.5),
        serve=ServeConfig(dtype="float32", lm_cpus=0.5),
        niah=NiahConfig(
            dtype="float32",
            worker_gpus=0,
            lengths=(256, 512, 1024),
            depths=(0.0, 0.25, 0.5, 0.75, 1.0),
            distractors=(0,),
            prefill_chunk=128,
        ),
        vniah=VniahConfig(
            dtype="float32",
            worker_gpus=0,
            frames=(64, 128, 256),
            prefill_chunk=128,
            extra_tokens=4,
        ),
        extend=ExtendConfig(
            steps=300,
            sequences_per_step=8,
            rows_per_batch=8,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=20,
            rope_theta=1e6,
            max_tokens=2048,
            dtype="float32",
            # Nothing to divide: ZeRO-3 with offload would cost a fifth more time.
            zero_stage=0,
            offload=False,
            checkpoint_activations=False,
            offload_activations=False,
            num_workers=2,
            ring_size=2,
            gpus_per_worker=0,
            checkpoint_every=100,
        ),
        # The tiny world's documents are chats and essays, as long as they should be.
        text=TextDataConfig(
            sequence_length=512,
            upsample_factor=1,
            domain_field="domain",
            parse_special_tokens=True,
            part_tokens=2**20,
            task_cpus=0.5,
        ),
        images=ImageDataConfig(row_tokens=2048, task_cpus=0.5),
        align_projector=_tiny_alignment(train="projector", learning_rate=2e-3, steps=200),
        align=_tiny_alignment(learning_rate=5e-4, vision_learning_rate=2.5e-4, steps=400),
    )


def _tiny_alignment(**settings: Any) -> AlignConfig:
    """Rows of one worker each: they are too short to be worth a ring."""
    return AlignConfig(
        **settings,
        sequences_per_step=2,
        warmup_steps=20,
        betas=(0.9, 0.95),
        grids_per_forward=512,
        dtype="float32",
        # As in the extension, there is nothing to divide.
        zero_stage=0,
        offload=False,
        checkpoint_activations=False,
        offload_activations=False,
        num_workers=2,
        ring_size=1,
        gpus_per_worker=0,
        checkpoint_every=100,
    )


def longva_7b() -> Recipe:
    """The paper's model: Qwen2-7B extended to 224K tokens, CLIP ViT-L/14 at 336 pixels, 144 tokens
    a frame."""
    return Recipe(
        name="longva_7b",
        description="the released LongVA-7B weights (section 3 of the paper)",
        checkpoint="lmms-lab/LongVA-7B",
        encode=EncodeConfig(),
        # One GPU for both: the tower is a tenth of the language model's size.
        serve=ServeConfig(lm_gpus=0.8, encoder_gpus=0.2),
        # The extension starts from the language model. Qwen2 has no BOS, and the EOS of its chat
        # model ends a turn; <|endoftext|> is what separated documents in its pretraining.
        text=TextDataConfig(tokenizer="Qwen/Qwen2-7B-Instruct", separator="<|endoftext|>"),
        base="Qwen/Qwen2-7B-Instruct",
        extend=ExtendConfig(),
    )


def smollm2() -> Recipe:
    """A real language model of 135M parameters, from 2K-8K to 32K tokens on one GPU."""
    return Recipe(
        name="smollm2",
        description="SmolLM2-135M-Instruct, extended to 32K tokens on one GPU; text only",
        checkpoint=None,
        text=TextDataConfig(
            tokenizer="HuggingFaceTB/SmolLM2-135M-Instruct", sequence_length=32_768
        ),
        base="HuggingFaceTB/SmolLM2-135M-Instruct",
        niah=NiahConfig(
            lengths=(2048, 4096, 8192, 16_384, 32_768),
            depths=(0.0, 0.25, 0.5, 0.75, 1.0),
            rope_bases=(3e5, 1e6, 3e6, 1e7),
        ),
        extend=ExtendConfig(
            steps=300,
            sequences_per_step=8,
            learning_rate=1e-4,
            schedule="cosine",
            warmup_steps=20,
            rope_theta=1e7,
            max_tokens=32_768,
            zero_stage=1,
            offload=False,
            offload_activations=False,
            num_workers=1,
            ring_size=1,
            checkpoint_every=100,
        ),
    )


RECIPES = {"tiny": tiny, "longva_7b": longva_7b, "smollm2": smollm2}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError lists the names there are."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is named {name!r}; there are: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()


def cache_folder() -> Path:
    """Where weights made from a seed are kept: $LONGVA_CACHE, or ~/.cache/longva_ray."""
    return Path(os.environ.get("LONGVA_CACHE", "~/.cache/longva_ray")).expanduser()


def tiny_model() -> "LongVAConfig":
    """Architecture of the tiny recipe: the same parts as LongVA-7B, each as small as it can be."""
    from transformers import CLIPVisionConfig, Qwen2Config

    from longva_ray.lm.byte_tokenizer import BYTE_VOCABULARY_SIZE
    from longva_ray.lm.longva import LongVAConfig

    return LongVAConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        text_config=Qwen2Config(
            vocab_size=BYTE_VOCABULARY_SIZE,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=65536,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
    )


def materialise(recipe: Recipe, folder: Path | None = None) -> str:
    """Checkpoint of a recipe: its own, or one initialised from its seed below `folder` (default
    `cache_folder()`)."""
    if recipe.checkpoint is not None:
        return recipe.checkpoint
    from longva_ray.lm.byte_tokenizer import byte_tokenizer
    from longva_ray.lm.checkpoint import initialise_longva

    config = tiny_model()
    # The architecture is part of the name, so that weights of an older version are never mistaken
    # for today's.
    version = hashlib.blake2b(config.to_json_string().encode(), digest_size=4).hexdigest()
    path = (folder or cache_folder()) / f"{recipe.name}-seed{recipe.seed}-{version}"
    if not path.exists():
        logger.info("initialising %s weights from seed %d in %s", recipe.name, recipe.seed, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            fresh = Path(temporary) / "checkpoint"
            initialise_longva(config, byte_tokenizer(), seed=recipe.seed, path=fresh)
            # Someone else may have been quicker; both wrote the same bytes.
            with contextlib.suppress(FileExistsError, OSError):
                fresh.rename(path)
    return str(path)
