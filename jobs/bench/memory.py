"""Predicted and measured peak memory of a training step: `longva plan`'s formulas, checked.

    python jobs/bench/memory.py                  small model on a CPU, every live tensor counted
    python jobs/bench/memory.py --device meta    two layers of Qwen2-7B, in shapes that a GPU makes
    python jobs/bench/memory.py --device cuda    the same on a GPU, as the allocator saw it

Activations only, in one process: weights, gradients and optimizer states are there before the step
and follow from their number. Besides this package it needs torch, transformers and rich; only the
command line needs tyro.
"""

import dataclasses
from typing import Any, Literal

from memory_measure import measured_activations
from rich.console import Console
from rich.table import Table
from transformers import Qwen2Config

from longva_ray.planner.activations import activation_terms
from longva_ray.planner.memory import peak
from longva_ray.planner.setup import ModelShape, Setup
from longva_ray.settings.training import TrainConfig

MIB = 2**20

SMALL: dict[str, Any] = {
    "vocab_size": 4_096,
    "hidden_size": 128,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}

QWEN2_7B_IN_PART: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 3_584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 2,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}

SWITCHES: dict[str, dict[str, Any]] = {
    "nothing": {"checkpoint_activations": False, "tiled_loss": False},
    "checkpoints": {"tiled_loss": False},
    "checkpoints, tiled loss": {},
    "the same, ring run twice": {"keep_ring": False},
    "the same, tiled MLPs": {"tile_mlps": True},
}

OFFLOADED = {"offload to the host": {"offload_activations": True, "tile_mlps": True}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Compare predicted with measured memory."""

    device: Literal["cpu", "meta", "cuda"] = "cpu"


def make_setup(
    config: Qwen2Config, dtype: str, tile_tokens: int, switches: dict[str, Any]
) -> Setup:
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    train: dict[str, Any] = {"dtype": dtype, "zero_stage": 1, "offload_activations": False}
    train["gpus_per_worker"] = int(dtype != "float32")
    rest: dict[str, Any] = {}
    for name, value in switches.items():
        (train if name in names else rest)[name] = value
    return Setup(
        model=ModelShape.of(config),
        gpus=1,
        ring_size=1,
        train=TrainConfig(**train),
        tile_tokens=tile_tokens,
        tile_from=1,
        fused=dtype != "float32",
        **rest,
    )


def measure(options: Options) -> Table:
    on_gpu = options.device != "cpu"
    config = Qwen2Config(**(QWEN2_7B_IN_PART if on_gpu else SMALL))
    dtype, lengths = ("bfloat16", (8_192, 16_384)) if on_gpu else ("float32", (512, 1_024))
    title = f"activations of a step, {dtype} on {options.device}, MiB measured / planned"
    table = Table(title=title)
    for column in ("switches on", *(f"{n:,} tokens" for n in lengths), "slope, planned/measured"):
        table.add_column(column)
    for name, switches in (SWITCHES | (OFFLOADED if options.device == "cuda" else {})).items():
        setup = make_setup(config, dtype, lengths[0] // 4, switches)
        measured = [measured_activations(setup, config, n, device=options.device) for n in lengths]
        planned = [peak(activation_terms(setup, n))[0] for n in lengths]
        slope = (planned[1] - planned[0]) / (measured[1] - measured[0])
        pairs = zip(measured, planned, strict=True)
        cells = (f"{m / MIB:,.1f} / {p / MIB:,.1f}" for m, p in pairs)
        table.add_row(name, *cells, f"{slope:.3f}")
    return table


def main() -> None:
    import tyro

    Console().print(measure(tyro.cli(Options)))


if __name__ == "__main__":
    main()
