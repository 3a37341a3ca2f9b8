"""What a plan is made for: the shape of a model, GPUs, and every switch that memory depends on.

Reads a config, never weights.
"""

import dataclasses
from typing import Any, Self

from longva_ray.lm.tiled_mlp import MIN_TOKENS, TILE_TOKENS
from longva_ray.settings.training import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The numbers of a Qwen2- or Llama-shaped language model that memory depends on."""

    layers: int
    width: int
    intermediate: int
    words: int
    heads: int
    key_heads: int
    head_dim: int
    parameters: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Of a transformers text config; the model is built without storage and counted."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        attention, heads = model.get_decoder().layers[0].self_attn, config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            intermediate=config.intermediate_size,
            words=config.vocab_size,
            heads=heads,
            key_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            parameters=sum(p.numel() for p in model.parameters()),
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_dim


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VisionShape:
    """The numbers of a CLIP tower and its projector that memory depends on."""

    layers: int
    """That are used."""
    width: int
    intermediate: int
    patches: int
    """Of a grid, without the class token."""
    tokens: int
    """Of a grid, after pooling."""
    grid_size: int
    tower: int
    """Parameters."""
    projector: int
    """Parameters."""

    @classmethod
    def of(cls, config: Any) -> Self:
        """Of a `LongVAConfig`; the encoder is built without storage and counted."""
        import torch

        from longva_ray.lm.longva import build_frame_encoder

        with torch.device("meta"):
            encoder = build_frame_encoder(config)
        tower, vision = encoder.tower, config.vision
        return cls(
            layers=tower.clip.config.num_hidden_layers,
            width=vision.hidden_size,
            intermediate=vision.intermediate_size,
            patches=encoder.tokens_per_grid * encoder.pool_stride**2,
            tokens=encoder.tokens_per_grid,
            grid_size=encoder.grid_size,
            tower=sum(p.numel() for p in tower.parameters()),
            projector=sum(p.numel() for p in encoder.projector.parameters()),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A model, GPUs, and every switch that memory depends on.

    Raises ValueError when the ring does not divide the GPUs.
    """

    model: ModelShape
    gpus: int
    train: TrainConfig
    """Read for dtype, ZeRO, offload, checkpoints, MLP tiles and the ring's schedule; not for the
    number of workers."""
    ring_size: int
    vision: VisionShape | None = None
    """Tower and projector, of a stage that has them."""
    keep_ring: bool = True
    tiled_loss: bool = True
    fused: bool = True
    """Norms and rotary embedding without copies (`lm.fused`), as on every GPU."""
    tile_tokens: int = TILE_TOKENS
    tile_from: int = MIN_TOKENS
    """Tokens of an MLP tile, and tokens from which on tiles are cut (`lm.tiled_mlp`)."""

    def __post_init__(self) -> None:
        if min(self.gpus, self.ring_size) < 1 or self.gpus % self.ring_size:
            raise ValueError(
                f"the ring must divide the GPUs, got ring_size {self.ring_size} and {self.gpus} "
                "GPUs"
            )

    @property
    def itemsize(self) -> int:
        return 4 if self.train.dtype == "float32" else 2
