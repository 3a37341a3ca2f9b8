"""What the reports share: how a model is described, for programs and people."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from longva_ray.evaluate.rates import describe_rates
from longva_ray.evaluate.subjects import Subject
from longva_ray.lm.language_model import language_config

PACKAGES = ("longva-ray", "torch", "transformers", "ray")


ModelResult = dict[str, Any]
"""What a report says of one model."""


def best_base(tried: Sequence[ModelResult], name: str) -> list[ModelResult]:
    """The best of the RoPE bases tried on a model as one more model; none when none was tried."""
    if not tried:
        return []
    best = max(tried, key=lambda result: result["average"]["exact"]["score"])
    return [best | {"name": f"{name}, training-free best", "best_of": len(tried)}]


def describe_subject(subject: Subject, weights: str) -> ModelResult:
    """What a report says of a model before its scores."""
    rope = language_config(subject.path, rope_theta=subject.rope_base).rope_parameters
    own = language_config(subject.path)
    return {
        "name": subject.name,
        "path": subject.path,
        "fingerprint": weights,
        "dtype": subject.dtype,
        "rope_base": rope["rope_theta"],
        "training_length": subject.training_length or own.max_position_embeddings,
    }


def describe_models(report: Mapping[str, Any], more: Callable[[ModelResult], Sequence[str]]) -> str:
    """A report's averages in lines for a person, with `more` lines of each model."""
    lines = []
    for model in report["models"]:
        weights = f"{model['path']}, weights {model['fingerprint'][:8]}"
        lines.append(f"{model['name']} ({weights}, RoPE base {model['rope_base']:g})")
        lines += [f"  average, {line}" for line in describe_rates(model["average"])]
        lines += [f"  {line}" for line in more(model)]
    for model in report["training_free"]:
        score = model["average"]["exact"]["score"]
        lines.append(f"training-free, base {model['rope_base']:g}: {score:.3f}")
    return "\n".join(lines)


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """Write a report into `out` under the name of its test."""
    (out / f"{report['test']}.json").write_text(json.dumps(report, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Of this package and of what computes the scores."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
