"""How fast a long prompt is read and an answer scored: without a mask over transformers' own way.

    python jobs/bench/answer.py                  one CPU process
    python jobs/bench/answer.py --device cuda    in bfloat16

Layers of Qwen2-0.5B's shape with random weights: time does not depend on what they say. Both kinds
take turns, and the table shows the median of the ratios of neighbouring runs. Imports no Ray."""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
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


def build(layers: int, device: str, *, cached: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_hidden_layers=layers))
    model.to(device, dtype)
    if cached:
        use_cached_attention(model)
    model.eval()
    return model


def compare(acts: Mapping[str, Callable[[], object]], repeats: int, device: str) -> str:
    """Median seconds of both acts, and the median ratio of neighbouring runs."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            started = time.perf_counter()
            act()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    ratio = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
    cells = "".join(f"{statistics.median(each):>14.3f} s" for each in times.values())
    return f"{cells}{ratio:>9.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4_096, 16_384])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--answer", type=int, default=8, help="tokens of the scored answer")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device, answer = options.device, list(range(options.answer))
    models = {
        name: build(options.layers, device, cached=name == "without a mask")
        for name in ("with a mask", "without a mask")
    }
    print(f"{'':<40}" + "".join(f"{name:>16}" for name in models) + f"{'ratio':>10}")
    for tokens in options.tokens:
        prompt = torch.randn(1, tokens, SHAPE["hidden_size"]).to(
            device, models["with a mask"].dtype
        )
        prompts = {name: prefill(model, prompt, chunk=2048) for name, model in models.items()}
        reading = {
            name: functools.partial(prefill, model, prompt, chunk=2048)
            for name, model in models.items()
        }
        scoring = {
            name: functools.partial(score_answer, model, prompts[name], answer)
            for name, model in models.items()
        }
        for what, acts in (("read", reading), (f"{len(answer)} tokens scored", scoring)):
            cells = compare(acts, options.repeats, device)
            print(f"{tokens:>7} tokens, {what:<24}{cells}")


if __name__ == "__main__":
    main()
