"""Named complete recipes: `get_recipe("tiny")`, `get_recipe("longva_7b")`.

A recipe is what a job starts from; single settings are then overridden on the command line. Every
checkpoint is an ordinary folder or name on the hub; no code path is special to small models."""

import dataclasses
from pathlib import Path
from typing import Any

from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.data import ImageDataConfig, PreferenceDataConfig, TextDataConfig
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.needles import NiahConfig, VniahConfig
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.settings.recipe import Recipe
from longva_ray.settings.training import AlignConfig, ExtendConfig, PreferConfig


def tiny() -> Recipe:
    """longva-tiny: a model that this package carries and `jobs/reproduce.py` makes. 0.4M parameters
    and a tower of 0.3M, 56-pixel frames, 4 tokens a frame, a world of coloured things."""
    from longva_ray.tiny.curriculum import LESSONS, TWO_CPU_WORKERS, niah_config
    from longva_ray.tiny.image_sets import vniah_config

    extend = LESSONS[-1]
    alignment: dict[str, Any] = {
        **TWO_CPU_WORKERS,
        "ring_size": 1,  # a row for each: rows are too short to be worth a ring
        "sequences_per_step": 4,
        "warmup_steps": 30,
        "betas": (0.9, 0.95),
        "weight_decay": 0.1,
        "grids_per_forward": 512,
        "checkpoint_every": 100,
    }
    return Recipe(
        name="tiny",
        description="longva-tiny, made for a small world of coloured things; runs on two CPU cores",
        checkpoint=str(Path(__file__).parent / "tiny" / "weights"),
        encode=EncodeConfig(dtype="float32", encoder_cpus=0.5, encoder_gpus=0, decode_cpus=0.5),
        serve=ServeConfig(dtype="float32", lm_cpus=0.5),
        niah=niah_config(),
        vniah=vniah_config(),
        questions=QuestionsConfig(
            dtype="float32",
            worker_cpus=0.5,
            worker_gpus=0,
            prefill_chunk=160,
            # It never saw a choice by letters.
            decide="text",
        ),
        extend=extend.training,
        # For any text. The texts of the tiny world have other settings.
        text=TextDataConfig(
            sequence_length=extend.sequence_length,
            upsample_factor=1,
            domain_field="domain",
            parse_special_tokens=True,
            part_tokens=2**20,
            task_cpus=0.5,
        ),
        images=ImageDataConfig(row_tokens=1024, part_samples=1024, task_cpus=0.5),
        align_projector=AlignConfig(**alignment, train="projector", steps=1000, learning_rate=2e-3),
        align=AlignConfig(
            **alignment,
            steps=400,
            # A language model that learns from short images forgets how to read far back. At 2e-5
            # it no longer ends its answers among 240 frames.
            learning_rate=2e-6,
            projector_learning_rate=5e-4,
            vision_learning_rate=2e-4,
        ),
        **_preferences_of_tiny(),
    )


def _preferences_of_tiny() -> dict[str, Any]:
    from longva_ray.tiny.curriculum import TWO_CPU_WORKERS

    return {
        "preferences": PreferenceDataConfig(
            max_tokens=1024,
            dtype="float32",
            prefill_chunk=160,
            part_pairs=64,
            task_cpus=0.5,
            task_gpus=0,
        ),
        "prefer": PreferConfig(
            **TWO_CPU_WORKERS,
            steps=60,
            sequences_per_step=8,
            learning_rate=5e-5,
            warmup_steps=6,
            checkpoint_every=20,
        ),
    }


def longva_7b() -> Recipe:
    """The paper's model: Qwen2-7B extended to 224K tokens, CLIP ViT-L/14 at 336 pixels, 144 tokens
    a frame."""
    recipe = Recipe(
        name="longva_7b",
        description="the released LongVA-7B weights (section 3 of the paper)",
        checkpoint="lmms-lab/LongVA-7B",
        # As the released code, which counts frames.
        encode=EncodeConfig(sampling="1fps-by-count"),
        images=ImageDataConfig(sampling="1fps-by-count"),
        # As the released code; it reads folders of frames.
        preferences=PreferenceDataConfig(frames=10),
        # As the released test. Elsewhere frames are cropped, as the checkpoint says.
        vniah=VniahConfig(fitting="letterbox_mean"),
        # One GPU for both: the tower is a tenth of the language model's size.
        serve=ServeConfig(lm_gpus=0.8, encoder_gpus=0.2, session_gib=30),
        # The extension starts from the language model. Qwen2 has no BOS, and the EOS of its chat
        # model ends a turn; <|endoftext|> is what separated documents in its pretraining.
        text=TextDataConfig(tokenizer="Qwen/Qwen2-7B-Instruct", separator="<|endoftext|>"),
        base="Qwen/Qwen2-7B-Instruct",
    )
    # Each of 8 workers updates 0.95B offloaded parameters on its CPUs.
    cpus = 8
    return dataclasses.replace(
        recipe,
        extend=dataclasses.replace(recipe.extend, cpus_per_worker=cpus),
        align_projector=dataclasses.replace(recipe.align_projector, cpus_per_worker=cpus),
        align=dataclasses.replace(recipe.align, cpus_per_worker=cpus),
        prefer=dataclasses.replace(recipe.prefer, cpus_per_worker=cpus),
    )


SMOLLM2_TEXT = TextDataConfig(
    tokenizer="HuggingFaceTB/SmolLM2-135M-Instruct",
    # Its BOS opens a turn of a chat; this is what stood between the documents of its pretraining.
    separator="<|endoftext|>",
)


def smollm2() -> Recipe:
    """A real language model of 135M parameters, from 2K-8K to 32K tokens on one GPU."""
    return Recipe(
        name="smollm2",
        description="SmolLM2-135M-Instruct, extended to 32K tokens on one GPU; text only",
        checkpoint=None,
        text=dataclasses.replace(SMOLLM2_TEXT, sequence_length=32_768),
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


def smollm2_cpu() -> Recipe:
    """The same model from 8K to 16K tokens, twice as far as it reads by itself: as far as eight
    steps on two CPU cores take it."""
    return Recipe(
        name="smollm2_cpu",
        description="SmolLM2-135M-Instruct, extended to 16K tokens on two CPU cores; text only",
        checkpoint=None,
        text=dataclasses.replace(SMOLLM2_TEXT, sequence_length=16_384),
        base="HuggingFaceTB/SmolLM2-135M-Instruct",
        niah=NiahConfig(
            dtype="float32",
            worker_gpus=0,
            lengths=(2048, 4096, 8192, 16_384),
            depths=(0.0, 0.5, 1.0),
            samples=1,
            distractors=(0,),
            rope_bases=(2e5,),
            perplexity_windows=2,
        ),
        extend=ExtendConfig(
            steps=8,
            sequences_per_step=1,
            learning_rate=1e-4,
            schedule="cosine",
            warmup_steps=1,
            # The least that stretches the slowest rotation twofold: 1e5 x 2^(64/62).
            rope_theta=2e5,
            max_tokens=16_384,
            # Essays are shorter than a row, and masked ones would teach nothing about its length.
            mask_documents=False,
            dtype="float32",
            zero_stage=0,
            offload=False,
            offload_activations=False,
            num_workers=2,
            ring_size=2,
            gpus_per_worker=0,
            checkpoint_every=2,
        ),
    )


RECIPES = {
    "tiny": tiny,
    "longva_7b": longva_7b,
    "smollm2": smollm2,
    "smollm2_cpu": smollm2_cpu,
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError lists the names there are."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is named {name!r}; there are: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()


def checkpoint_of(recipe: Recipe) -> str:
    """Where the weights of a recipe are; ValueError for one that has none."""
    if recipe.checkpoint is None:
        raise ValueError(
            f"recipe {recipe.name} has no LongVA weights; give --model, or another --recipe"
        )
    return recipe.checkpoint
