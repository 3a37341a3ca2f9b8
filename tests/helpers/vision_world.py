"""A LongVA, images and conversations small enough to align in seconds, for tests of the trainer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from byte_tokenizer import BYTE_VOCABULARY_SIZE, byte_tokenizer
from PIL import Image
from transformers import CLIPVisionConfig, Qwen2Config

from longva_ray.data.images.chat import parse_sample, read_samples
from longva_ray.data.images.encode import pack_rows
from longva_ray.data.images.manifest import Provenance, manifest_of
from longva_ray.data.images.samples import SampleEncoder
from longva_ray.data.images.shards import VisionShardWriter
from longva_ray.data.sample_parts import PartResult
from longva_ray.lm.base_models import load_tokenizer
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.lm.join import initialise_longva
from longva_ray.lm.layout import load_longva_config
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.settings.training import AlignConfig
from longva_ray.vision.encoding import MAX_GRIDS, Encoding
from longva_ray.vision.projector import ProjectorKind

GRID = 56

TOKENS_PER_GRID = 4


def write_base(
    folder: Path, encoding: Encoding = "unires", projector: ProjectorKind = "mlp"
) -> str:
    """A LongVA with grids of 56 pixels, 16 patches or 4 tokens each, and a language model of two
    layers."""
    config = LongVAConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=GRID,
            patch_size=14,
        ),
        text_config=Qwen2Config(
            vocab_size=BYTE_VOCABULARY_SIZE,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            # large enough for losses of different images to differ clearly
            initializer_range=0.2,
        ),
        projector=projector,
        encoding=encoding,
        max_grids=MAX_GRIDS[encoding],
    )
    initialise_longva(config, byte_tokenizer(), seed=0, path=folder)
    return str(folder)


def write_image(path: Path, columns: int, rows: int, seed: int) -> None:
    """Noise of that many grids."""
    rng = np.random.default_rng(seed)
    size = (rows * GRID, columns * GRID, 3)
    Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)


def conversation(*turns: str) -> list[dict[str, str]]:
    """Questions and answers in turn."""
    return [
        {"from": ("human", "gpt")[number % 2], "value": turn} for number, turn in enumerate(turns)
    ]


def write_samples(folder: Path) -> Path:
    """One image, several images, several questions, no image; sizes from 1 to 6 grids."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"a": (1, 1), "b": (3, 2), "c": (2, 1), "d": (1, 3), "e": (2, 2)}
    for seed, (name, (columns, rows)) in enumerate(shapes.items()):
        write_image(folder / f"{name}.png", columns, rows, seed)
    samples = [
        {"id": "one", "image": "a.png", "conversations": conversation("<image>\nWhat?", "Noise.")},
        {
            "id": "turns",
            "image": "b.png",
            "conversations": conversation("<image>\nWhat?", "Noise.", "Sure?", "Yes, noise."),
        },
        {
            "id": "several",
            "image": ["c.png", "d.png"],
            "conversations": conversation("<image>\nor <image>\n?", "The first."),
        },
        {"id": "text", "conversations": conversation("And you?", "I am a model of words.")},
        {"id": "large", "image": "e.png", "conversations": conversation("<image>\nSo?", "So.")},
    ]
    path = folder / "samples.json"
    path.write_text(json.dumps(samples))
    return path


def write_shards(folder: Path, base: str, samples: Path, *, row_tokens: int = 256) -> str:
    """Vision shards of these samples in their order, all in one part."""
    tokenizer, grids = load_tokenizer(base), load_longva_config(base).grids
    encoder = SampleEncoder(
        tokenizer, grids, sampling="1fps", video_fitting="letterbox", max_tokens=row_tokens
    )
    encoded = [
        encoder(parse_sample(raw))
        for raw in read_samples([str(samples)], image_folder=None, seed=0)
    ]
    writer = VisionShardWriter(str(folder), key="key")
    record = writer.write_part(0, pack_rows(iter(encoded), row_tokens))
    result = PartResult(key="key", record=record, left_out=())
    origin = Provenance(
        source=(str(samples),),
        grids=grids,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        settings={},
        key="key",
    )
    writer.commit(manifest_of([result], origin))
    return str(folder)


def settings(**changes: Any) -> AlignConfig:
    """Four steps of two rows on CPU workers, every state on every worker."""
    small = AlignConfig(
        steps=4,
        sequences_per_step=2,
        learning_rate=1e-2,
        vision_learning_rate=2e-3,
        schedule="constant",
        warmup_steps=0,
        grids_per_forward=2,
        dtype="float32",
        zero_stage=0,
        offload=False,
        checkpoint_activations=False,
        offload_activations=False,
        num_workers=1,
        ring_size=1,
        gpus_per_worker=0,
        cpus_per_worker=0.5,
        checkpoint_every=2,
        max_failures=0,
        collective_timeout_s=60,
        trackers=(),
    )
    return dataclasses.replace(small, **changes)


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in module.named_parameters()
    }
