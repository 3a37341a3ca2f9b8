"""What `gpu.py` measures at which size, and one line of its table."""

import dataclasses
from typing import Any

import torch
from timing import AttentionShape, LossShape

QWEN2_7B: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 3_584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2**20,
}
VIT_L_336: dict[str, Any] = {
    "hidden_size": 1_024,
    "intermediate_size": 4_096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """One number, and its ratio to a reference that was measured in the same run."""

    what: str
    value: float
    unit: str
    reference: str = ""
    ratio: float | None = None

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:8.2f} of {self.reference}"
        return f"{self.what:<64} {self.value:12.4g} {self.unit:<10}{ratio}".rstrip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of everything that is measured."""

    device: str
    dtype: torch.dtype
    model: dict[str, Any]
    layers: int
    """Of a step and of reading; a whole model has 28."""
    tower: dict[str, Any]
    attention: AttentionShape
    packed: tuple[tuple[int, ...], ...]
    """Lengths of the documents of packed rows."""
    ring: tuple[int, ...]
    """Lengths of sequences that a ring of 8 shares."""
    loss: LossShape
    steps: tuple[int, ...]
    memory: tuple[int, int]
    prompts: tuple[int, ...]
    chunk: int
    generated: int
    frames: int
    repeats: int

    def attention_of(self, tokens: int) -> AttentionShape:
        return dataclasses.replace(self.attention, tokens=tokens)


FULL = Sizes(
    device="cuda",
    dtype=torch.bfloat16,
    model=QWEN2_7B,
    layers=28,
    tower=VIT_L_336,
    attention=AttentionShape(65_536, heads=28, key_heads=4, head_dim=128),
    packed=((2_048,) * 32, (40_000, *(1_000,) * 25)),
    ring=(32_768, 131_072),
    loss=LossShape(32_768, 3_584, 152_064),
    steps=(65_536, 131_072),
    memory=(131_072, 262_144),
    prompts=(16_384, 73_728, 147_456),
    chunk=16_384,
    generated=32,
    frames=256,
    repeats=2,
)
QUICK = dataclasses.replace(
    FULL,
    layers=4,
    attention=AttentionShape(32_768, heads=28, key_heads=4, head_dim=128),
    packed=((2_048,) * 16,),
    ring=(32_768,),
    steps=(65_536,),
    memory=(65_536, 131_072),
    prompts=(16_384, 73_728),
    frames=128,
)
TINY = Sizes(
    device="cpu",
    dtype=torch.float32,
    model={
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    },
    layers=2,
    tower={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    },
    attention=AttentionShape(64, heads=4, key_heads=2, head_dim=8),
    packed=((20, 30, 14),),
    ring=(64,),
    loss=LossShape(32, 8, 64),
    steps=(48,),
    memory=(32, 64),
    prompts=(24,),
    chunk=16,
    generated=2,
    frames=3,
    repeats=1,
)
