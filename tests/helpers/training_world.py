"""A model and token shards small enough to train on in seconds, for tests of the trainer."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from byte_tokenizer import BYTE_VOCABULARY_SIZE, byte_tokenizer
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from longva_ray.data.text.shards import TokenSequence, TokenShardsMetadata, TokenShardWriter
from longva_ray.files.parts import HELD_OUT
from longva_ray.lm.fingerprints import tokenizer_fingerprint
from longva_ray.lm.tiled_mlp import tile_mlps
from longva_ray.ring.mesh import RingMesh
from longva_ray.settings.training import ExtendConfig
from longva_ray.train.stage import MicroBatch
from longva_ray.train.stages.text import TextStage

ROW_TOKENS = 50  # divides neither into 4 chunks nor into documents of one size


def write_base(folder: Path, *, tied: bool = True) -> str:
    """A Qwen2 of two layers with the byte tokenizer beside it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=BYTE_VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def write_shards(
    folder: Path, base: str, *, num_rows: int = 13, num_held_out: int = 0, seed: int = 0
) -> str:
    """Rows of three documents each, unequal in length, every other row with padding."""
    if num_held_out:
        write_shards(folder / HELD_OUT, base, num_rows=num_held_out, seed=seed + 1)
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(num_rows):
        padding = 5 * (row % 2)
        first, second = 7 + row, 11
        lengths = (first, second, ROW_TOKENS - padding - first - second, padding)
        ids = rng.integers(97, 105, ROW_TOKENS, dtype=np.int32)
        rows.append(
            TokenSequence(
                marked_ids_T=ids,
                document_lengths=tuple(length for length in lengths if length),
                num_padding=padding,
            )
        )
    writer = TokenShardWriter(str(folder), content_key="key", sequence_length=ROW_TOKENS)
    record = writer.write_part(0, rows)
    tokenizer = AutoTokenizer.from_pretrained(base)
    writer.commit(
        TokenShardsMetadata(
            sequence_length=ROW_TOKENS,
            num_sequences=num_rows,
            num_tokens=sum(ROW_TOKENS - row.num_padding for row in rows),
            num_padding=sum(row.num_padding for row in rows),
            largest_id=104,
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            vocabulary_size=len(tokenizer),
            separator_id=0,
            seed=0,
            source=("random",),
            source_fingerprint="random",
            content_key="key",
            settings={},
            versions={},
            part_sequences=(num_rows,),
            part_bytes=(record.num_bytes,),
        )
    )
    return str(folder)


def settings(**changes: Any) -> ExtendConfig:
    """Four steps of four rows on CPU workers, every state on every worker."""
    small = ExtendConfig(
        steps=4,
        sequences_per_step=4,
        learning_rate=1e-2,
        dtype="float32",
        zero_stage=0,
        offload=False,
        checkpoint_activations=False,
        offload_activations=False,
        rope_theta=1e5,
        max_tokens=256,
        num_workers=2,
        ring_size=2,
        gpus_per_worker=0,
        cpus_per_worker=0.5,
        checkpoint_every=2,
        max_failures=0,
        collective_timeout_s=60,
        trackers=(),
    )
    return dataclasses.replace(small, **changes)


class SlowStage(TextStage):
    """Steps slow enough to do something to a worker between two of them."""

    def micro_batches(self, step: int) -> list[MicroBatch]:
        time.sleep(0.5)
        return super().micro_batches(step)


class TiledStage(TextStage):
    """MLPs in tiles of five tokens, which the settings' own sizes would leave whole."""

    def build(self, mesh: RingMesh, device: torch.device) -> torch.nn.Module:
        module = super().build(mesh, device)
        tile_mlps(self.model(), tile_tokens=5, min_tokens=1)
        return module


class HangingStage(TextStage):
    """Rank 1 does not come to its second step."""

    def micro_batches(self, step: int) -> list[MicroBatch]:
        if step == 1 and dist.get_rank() == 1:
            time.sleep(600)
        return super().micro_batches(step)
