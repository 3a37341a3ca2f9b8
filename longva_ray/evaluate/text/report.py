"""The report of the needle test on text: outcomes -> scores, lines for a person, and figures."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_ray.evaluate.heatmap import Curve, Panel, write_curves, write_heatmaps
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.rates import by_cell, rates
from longva_ray.evaluate.report import ModelResult, describe_models


def summarise(outcomes: Sequence[TrialOutcome]) -> dict[str, Any]:
    """Scores over the whole grid, and by distractors, length and cell."""
    cells = by_cell(outcomes, lambda o: (o["distractors"], o["length"], o["depth"]))
    groups = by_cell(outcomes, lambda o: (o["distractors"],))
    lengths = by_cell(outcomes, lambda o: (o["distractors"], o["length"]))
    return {
        "average": rates(outcomes),
        "average_by_distractors": {str(d): rates(group) for (d,), group in groups.items()},
        "average_by_length": [
            {"distractors": distractors, "length": length} | rates(group)
            for (distractors, length), group in lengths.items()
        ],
        "largest_shift_of_depth": max(abs(o["true_depth"] - o["depth"]) for o in outcomes),
        "cells": [
            {"distractors": distractors, "length": length, "depth": depth} | rates(group)
            for (distractors, length, depth), group in cells.items()
        ],
    }


def average_windows(windows: Sequence[TrialOutcome]) -> dict[str, Any] | None:
    """Of plain essays, by position; `loss` is the mean over all `tokens` positions, in nats."""
    if not windows:
        return None
    stretches = list(itertools.pairwise(windows[0]["edges"]))
    means = [sum(nll) / len(nll) for nll in zip(*(w["nll"] for w in windows), strict=True)]
    whole = sum((stop - start) * mean for (start, stop), mean in zip(stretches, means, strict=True))
    return {
        "loss": whole / stretches[-1][1],
        "tokens": stretches[-1][1],
        "position": [(start + stop) / 2 for start, stop in stretches],
        "perplexity": [math.exp(mean) for mean in means],
    }


def describe_niah(report: dict[str, Any]) -> str:
    """A report's averages in lines for a person."""
    limit = report["models"][0]["training_length"]

    def more(model: ModelResult) -> list[str]:
        lines = [
            f"{row['length']:>8} tokens, {row['distractors']} distractors: "
            f"{row['exact']['score']:.3f}"
            for row in model["average_by_length"]
        ]
        if model["perplexity"]:
            lines.append(f"loss on plain essays: {_describe_loss(model['perplexity'], limit)}")
        return lines

    return describe_models(report, more)


def draw_niah(report: dict[str, Any], out: Path) -> None:
    """The figures of a report."""
    rows = [
        [
            Panel(
                title=_title(model, distractors, len(report["settings"]["distractors"])),
                scores={
                    (cell["length"], cell["depth"]): cell["exact"]["score"]
                    for cell in model["cells"]
                    if cell["distractors"] == distractors
                },
                training_length=model["training_length"],
            )
            for model in report["models"]
        ]
        for distractors in report["settings"]["distractors"]
    ]
    write_heatmaps(
        out / "niah.png", rows, x_label="context length (tokens)", y_label="needle depth"
    )
    curves = [
        Curve(
            name=model["name"],
            x=model["perplexity"]["position"],
            y=model["perplexity"]["perplexity"],
            training_length=model["training_length"],
        )
        for model in report["models"]
        if model["perplexity"]
    ]
    if curves:
        write_curves(out / "perplexity.png", curves, x_label="position", y_label="perplexity")


def _describe_loss(perplexity: dict[str, Any], limit: int) -> str:
    """The mean loss up to position `limit`, and after it where there is anything."""
    halves: dict[str, list[float]] = {f"up to {limit}": [], f"after {limit}": []}
    inside, outside = halves.values()
    for position, value in zip(perplexity["position"], perplexity["perplexity"], strict=True):
        (inside if position < limit else outside).append(math.log(value))
    means = [f"{sum(half) / len(half):.4f} {where}" for where, half in halves.items() if half]
    return f"{', '.join(means)} of {perplexity['tokens']} tokens, in nats"


def _title(model: dict[str, Any], distractors: int, rows: int) -> str:
    score = model["average_by_distractors"][str(distractors)]["exact"]["score"]
    suffix = f", {distractors} distractors" if rows > 1 or distractors else ""
    return f"{model['name']}{suffix}: {score:.3f}"
