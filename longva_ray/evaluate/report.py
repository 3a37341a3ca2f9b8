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


def exact_score(result: ModelResult) -> float:
    """Share of right answers of a needle test, by the paper's rule."""
    score: float = result["average"]["exact"]["score"]
    return score


def best_base(
    tried: Sequence[ModelResult], title: str, score: Callable[[ModelResult], float] = exact_score
) -> list[ModelResult]:
    """The best of the RoPE bases tried on a model as a model of that title; none when none was
    tried. Of equal ones it is the first."""
    if not tried:
        return []
    return [max(tried, key=score) | {"name": title, "best_of": len(tried)}]


def training_free_lines(
    report: Mapping[str, Any], score: Callable[[ModelResult], float] = exact_score
) -> list[str]:
    """A line for each RoPE base that was tried."""
    return [
        f"training-free, base {model['rope_base']:g}: {score(model):.3f}"
        for model in report["training_free"]
    ]


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
    return "\n".join([*lines, *training_free_lines(report)])


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """Write a report into `out` under the name of its test."""
    (out / f"{report['test']}.json").write_text(json.dumps(report, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Of this package and of what computes the scores."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
