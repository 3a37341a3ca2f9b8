"""How fast a long prompt is read and an answer scored, with and without a mask.

    python jobs/bench/answer.py                  one CPU process
    python jobs/bench/answer.py --device cuda    in bfloat16

With a mask is how transformers does it. Layers have Qwen2-0.5B's shape and random weights, since
time does not depend on what they say. Both kinds take turns, and the table shows the median of the
ratios of neighbouring runs. Besides this package it needs torch and transformers; only the command
line needs tyro.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any, Literal

import torch
from timing import alternate, speedup
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.prefill import prefill
from longva_ray.answer.score import score_answer

SHAPE: dict[str, Any] = {
    "vocab_size": 16_000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2**20,
}


KINDS = ("with a mask", "without a mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure reading a prompt and scoring an answer."""

    device: Literal["cpu", "cuda"] = "cpu"
    tokens: tuple[int, ...] = (4_096, 16_384)
    """Lengths of the prompts."""
    layers: int = 2
    answer: int = 8
    """Tokens of the scored answer."""
    repeats: int = 3
    """Rounds of each comparison."""


def build(layers: int, device: str, *, cached: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_hidden_layers=layers))
    model.to(device, dtype)
    if cached:
        use_cached_attention(model)
    model.eval()
    return model


def compare(acts: dict[str, Callable[[], object]], repeats: int, device: str) -> str:
    """Median seconds of both kinds, and the median ratio of neighbouring runs."""
    settle = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = alternate(acts, repeats, settle)
    cells = "".join(f"{statistics.median(seconds[kind]):>14.3f} s" for kind in KINDS)
    return f"{cells}{speedup(seconds, *KINDS):>9.2f}x"


def measure(options: Options) -> None:
    """Print the table, line by line."""
    answer = list(range(options.answer))
    models = {
        kind: build(options.layers, options.device, cached=kind == "without a mask")
        for kind in KINDS
    }
    print(f"{'':<40}" + "".join(f"{kind:>16}" for kind in KINDS) + f"{'ratio':>10}")
    for tokens in options.tokens:
        prompt = torch.randn(1, tokens, SHAPE["hidden_size"]).to(
            options.device, models[KINDS[0]].dtype
        )
        reading: dict[str, Callable[[], object]] = {
            kind: functools.partial(prefill, model, prompt, chunk=2048)
            for kind, model in models.items()
        }
        scoring: dict[str, Callable[[], object]] = {
            kind: functools.partial(score_answer, model, prefill(model, prompt, chunk=2048), answer)
            for kind, model in models.items()
        }
        for what, acts in (("read", reading), (f"{len(answer)} tokens scored", scoring)):
            cells = compare(acts, options.repeats, options.device)
            print(f"{tokens:>7} tokens, {what:<24}{cells}")


def main() -> None:
    import tyro

    measure(tyro.cli(Options))


if __name__ == "__main__":
    main()
