"""How fast a long prompt is read, an answer scored and one generated: transformers' way and ours.

    python jobs/bench/answer.py                  one CPU process
    python jobs/bench/answer.py --device cuda    in bfloat16

Transformers has a mask and a cache that is copied for every token; ours has neither. Layers have
Qwen2-0.5B's shape and random weights, since time does not depend on what they say. Both kinds take
turns, and the table shows the median of the ratios of neighbouring runs. Besides this package it
needs torch and transformers; only the command line needs tyro.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any, Literal

import torch
from timing import alternate, speedup
from transformers import DynamicCache, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.cache import roomy_cache
from longva_ray.answer.generate import generate_tokens
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.score import score_answer
from longva_ray.settings.answering import GenerationSettings

SHAPE: dict[str, Any] = {
    "vocab_size": 16_000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2**20,
}


KINDS = ("transformers", "ours")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure reading a prompt, scoring an answer and generating one."""

    device: Literal["cpu", "cuda"] = "cpu"
    tokens: tuple[int, ...] = (4_096, 16_384)
    """Lengths of the prompts."""
    layers: int = 2
    answer: int = 8
    """Tokens of the scored answer."""
    generated: int = 32
    """Tokens of the generated answer."""
    repeats: int = 3
    """Rounds of each comparison."""


def build(layers: int, device: str, kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_hidden_layers=layers))
    model.to(device, dtype)
    if kind == "ours":
        use_cached_attention(model)
    model.generation_config.eos_token_id = -1  # no token ends an answer
    model.eval()
    return model


def read(model: PreTrainedModel, prompt_1TD: torch.Tensor, kind: str) -> Prefill:
    cache = roomy_cache(model) if kind == "ours" else DynamicCache(config=model.config)
    return prefill(model, prompt_1TD, chunk=2048, cache=cache)


def generate(model: PreTrainedModel, prompt: Prefill, settings: GenerationSettings) -> list[int]:
    return list(generate_tokens(model, prompt, settings))


def compare(acts: dict[str, Callable[[], object]], repeats: int, device: str) -> str:
    """Median seconds of both kinds, and the median ratio of neighbouring runs."""
    settle = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = alternate(acts, repeats, settle)
    cells = "".join(f"{statistics.median(seconds[kind]):>14.3f} s" for kind in KINDS)
    return f"{cells}{speedup(seconds, *KINDS):>9.2f}x"


def measure(options: Options) -> None:
    """Print the table, line by line."""
    answer = list(range(options.answer))
    settings = GenerationSettings(max_new_tokens=options.generated)
    models = {kind: build(options.layers, options.device, kind) for kind in KINDS}
    print(f"{'':<40}" + "".join(f"{kind:>16}" for kind in KINDS) + f"{'ratio':>10}")
    for tokens in options.tokens:
        prompt = torch.randn(1, tokens, SHAPE["hidden_size"]).to(
            options.device, models[KINDS[0]].dtype
        )
        were_read = {kind: read(model, prompt, kind) for kind, model in models.items()}
        acts_of: dict[str, dict[str, Callable[[], object]]] = {
            "read": {kind: functools.partial(read, models[kind], prompt, kind) for kind in KINDS},
            f"{options.answer} tokens scored": {
                kind: functools.partial(score_answer, models[kind], were_read[kind], answer)
                for kind in KINDS
            },
            f"{options.generated} tokens generated": {
                kind: functools.partial(generate, models[kind], were_read[kind], settings)
                for kind in KINDS
            },
        }
        for what, acts in acts_of.items():
            cells = compare(acts, options.repeats, options.device)
            print(f"{tokens:>7} tokens, {what:<24}{cells}")


def main() -> None:
    import tyro

    measure(tyro.cli(Options))


if __name__ == "__main__":
    main()
