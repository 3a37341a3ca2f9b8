"""The text half of longva-tiny: which text each stage reads, and how it is trained on it.

    LESSONS: induction -> pretrain -> extend      each starts from the weights of the one before

`induction` makes the circuit that everything else needs: recitals alone, short, a few hundred
steps. `pretrain` adds lists, numbers, essays and chats of at most `PRETRAINED_TOKENS`. `extend` is
stage one of the paper in miniature: the RoPE base goes up, documents grow to `EXTENDED_TOKENS`, and
two workers share each row as one ring.

Pretraining uses the same loop and stage as the extension (`train.stages.text`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from longva_ray.settings.data import TextDataConfig
from longva_ray.settings.needles import NiahConfig
from longva_ray.settings.training import ExtendConfig
from longva_ray.tiny.corpus_plan import CorpusPlan
from longva_ray.tiny.words import CITIES

PRETRAINED_TOKENS = 160


EXTENDED_TOKENS = 1024


PRETRAINED_BASE, EXTENDED_BASE = 1e4, 1e6  # of the rotary embedding


TWO_CPU_WORKERS: Mapping[str, Any] = MappingProxyType(
    {
        "num_workers": 2,
        "gpus_per_worker": 0,
        "dtype": "float32",
        # DeepSpeed has nothing to divide at this size.
        "zero_stage": 0,
        "offload": False,
        "checkpoint_activations": False,
        "offload_activations": False,
        "weight_decay": 0.0,
    }
)
"""Settings of every stage, those of alignment too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """One stage: its text, how the text is packed, and how it is trained on."""

    name: str
    corpus: CorpusPlan
    sequence_length: int
    training: ExtendConfig

    @property
    def text(self) -> TextDataConfig:
        """Settings of the shards: whole documents, in the order of the corpus, with its labels."""
        return TextDataConfig(
            sequence_length=self.sequence_length,
            upsample_factor=1,
            keep_whole=True,
            domain_field="domain",
            labels_field="labels",
            parse_special_tokens=True,
            separator="<|endoftext|>",
            part_tokens=2**20,
            task_cpus=0.5,
        )


LESSONS = (
    Lesson(
        name="induction",
        corpus=CorpusPlan(
            num_tokens=1_300_000,
            shortest=60,
            longest=64,
            # Figures alone are too many words: the circuit then takes twice as long to appear.
            shares=(("recitals", 0.7), ("figures", 0.3)),
        ),
        sequence_length=512,
        training=ExtendConfig(
            **TWO_CPU_WORKERS,
            steps=600,
            sequences_per_step=8,
            rows_per_batch=4,
            ring_size=1,
            learning_rate=2e-3,
            warmup_steps=50,
            rope_theta=PRETRAINED_BASE,
            max_tokens=512,
            from_scratch=True,
        ),
    ),
    Lesson(
        name="pretrain",
        corpus=CorpusPlan(
            num_tokens=10_000_000,
            shortest=96,
            longest=PRETRAINED_TOKENS,
            shares=(
                ("figures", 0.1),
                ("lists", 0.15),
                ("numbers", 0.2),
                ("essays", 0.15),
                ("chats", 0.4),
            ),
        ),
        sequence_length=512,
        training=ExtendConfig(
            **TWO_CPU_WORKERS,
            steps=2400,
            sequences_per_step=8,
            rows_per_batch=4,
            ring_size=1,
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=50,
            rope_theta=PRETRAINED_BASE,
            max_tokens=512,
        ),
    ),
    Lesson(
        name="extend",
        corpus=CorpusPlan(
            num_tokens=9_900_000,
            shortest=250,
            longest=EXTENDED_TOKENS - 24,
            shares=(
                ("figures", 0.05),
                ("lists", 0.2),
                ("numbers", 0.2),
                ("essays", 0.1),
                ("chats", 0.45),
            ),
        ),
        sequence_length=EXTENDED_TOKENS,
        training=ExtendConfig(
            **TWO_CPU_WORKERS,
            steps=800,
            sequences_per_step=12,
            rows_per_batch=12,
            ring_size=2,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=10,
            rope_theta=EXTENDED_BASE,
            max_tokens=EXTENDED_TOKENS,
        ),
    ),
)


def niah_config(essays: str | None = None) -> NiahConfig:
    """The needle test of Appendix A in the tiny language, up to eight times the pretraining.

    `essays` is a folder of `tiny.essays.write_essays`; None draws them.
    """
    return NiahConfig(
        dtype="float32",
        worker_gpus=0,
        worker_cpus=0.5,
        lengths=(PRETRAINED_TOKENS, 320, 640, 960, 1280),
        depths=(0.0, 0.25, 0.5, 0.75, 1.0),
        distractors=(0, 3),
        city=None,
        cities=CITIES,
        prefix="",
        needle=" The magic number of {city} is {number}.",
        question=(
            "\nQuestion: What is the magic number of {city}? Answer: The magic number of {city} is"
        ),
        answer=" {number}",
        essays=essays,
        world="tiny",
        rope_bases=(3e4, 1e5, 3e5, 1e6),
        prefill_chunk=160,
        perplexity_windows=0,
    )
