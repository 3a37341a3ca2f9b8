"""The report of the needle test on video: outcomes -> scores, lines for a person, and a figure.

Reports of several seeds can be averaged, and those of several runs drawn in one figure.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_ray.evaluate.heatmap import Panel, write_heatmaps
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.rates import VERDICTS, by_cell, describe_rates, pool_rates, rates
from longva_ray.evaluate.report import ModelResult, best_base, describe_models
from longva_ray.evaluate.video.ceiling import describe_ceiling, is_alone

ALONE = ("needle", "exact", "generated", "answer", "predicted")
"""What a report says of each needle alone."""


def summarise(outcomes: Sequence[TrialOutcome]) -> dict[str, Any]:
    """Scores over the whole grid, and by frames, needle and cell; ceiling and guess floor."""
    alone = [outcome for outcome in outcomes if is_alone(outcome)]
    floor = [outcome for outcome in outcomes if outcome["depth"] is None]
    asked = [o for o in outcomes if o["depth"] is not None and not is_alone(o)]
    cells = by_cell(asked, lambda outcome: (outcome["num_frames"], outcome["depth"]))
    lengths = by_cell(asked, lambda outcome: (outcome["num_frames"],))
    by_needle = by_cell(asked, lambda outcome: (outcome["needle"],))
    return {
        "average": rates(asked),
        "ceiling": rates(alone),
        "needles_alone": [{name: o[name] for name in ALONE} for o in alone],
        "guess_floor": rates(floor) if floor else None,
        "average_by_frames": [{"frames": n} | rates(group) for (n,), group in lengths.items()],
        "average_by_needle": [{"needle": k} | rates(group) for (k,), group in by_needle.items()],
        "cells": [
            {
                "frames": num_frames,
                "depth": depth,
                # As the reference's file has them: the depth in percent.
                "Num. Frame": num_frames,
                "Frame Depth": round(depth * 100, 2),
                "Score": sum(outcome["exact"] for outcome in group) / len(group),
            }
            | rates(group)
            for (num_frames, depth), group in cells.items()
        ],
    }


def average_over_seeds(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of the same models and grid on several haystacks and sets of needles: trials are
    pooled, and `seed_scores` has the average of each report.

    The best RoPE base is the best over all of them. Raises ValueError for reports of other models.
    """
    tried = [
        _pool([report["training_free"][place] for report in reports])
        for place in range(len(reports[0]["training_free"]))
    ]
    models = []
    for place, model in enumerate(reports[0]["models"]):
        if "best_of" in model:
            models += best_base(tried, model["name"])
        else:
            models.append(_pool([report["models"][place] for report in reports]))
    return {
        "test": "vniah",
        "seeds": len(reports),
        "settings": reports[0]["settings"],
        "versions": reports[0]["versions"],
        "models": models,
        "training_free": tried,
    }


def draw_vniah(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """All models of all reports as the panels of one figure."""
    panels = [
        Panel(
            title=_title(model),
            scores={
                (cell["Num. Frame"], cell["Frame Depth"] / 100): cell["Score"]
                for cell in model["cells"]
            },
            training_length=model["training_frames"],
        )
        for report in reports
        for model in report["models"]
    ]
    write_heatmaps(path, [panels], x_label="frames in the haystack", y_label="frame depth")


def describe_vniah(report: dict[str, Any]) -> str:
    """A report's averages in lines for a person."""

    def more(model: ModelResult) -> list[str]:
        lines = describe_ceiling(model["ceiling"])
        lines += [f"guess floor, {line}" for line in describe_rates(model["guess_floor"])]
        lines += [
            f"{row['frames']:>8} frames: {row['exact']['score']:.3f}"
            for row in model["average_by_frames"]
        ]
        if model["prefix_reuse"]:
            lines.append(f"prefix reuse: {json.dumps(model['prefix_reuse'])}")
        return lines

    return describe_models(report, more)


def compare(
    reused: Mapping[str, TrialOutcome], plain: Mapping[str, TrialOutcome]
) -> dict[str, Any]:
    """Seconds of the same grid with and without prefix reuse; asserts equal decisions."""
    decisions = ("exact", "generated", "predicted_ids", "text")
    differing = [
        key
        for key, outcome in reused.items()
        if any(outcome[name] != plain[key][name] for name in decisions)
    ]
    assert not differing, f"prefix reuse changed {len(differing)} decisions, first {differing[0]}"
    seconds = {
        "seconds_reused": sum(outcome["seconds"] for outcome in reused.values()),
        "seconds_plain": sum(outcome["seconds"] for outcome in plain.values()),
    }
    return seconds | {
        "times_fewer_seconds": seconds["seconds_plain"] / seconds["seconds_reused"],
        "trials_with_identical_decisions": len(reused),
    }


def _title(model: ModelResult) -> str:
    """Name and score, and the ceiling, which reports of earlier versions lack."""
    score = f"{model['name']}: {model['average']['exact']['score']:.3f}"
    ceiling = model.get("ceiling")
    return f"{score}\nneedles alone: {ceiling['exact']['score']:.3f}" if ceiling else score


def _pool(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One model's results on several haystacks and sets of needles as those of one."""
    first = models[0]
    names = ("name", "fingerprint", "rope_base")
    if any(model[name] != first[name] for model in models for name in names):
        raise ValueError(
            f"want reports of the same models in the same order, got {first['name']} and "
            f"{', '.join(model['name'] for model in models[1:])}"
        )

    def pool(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
        found = {verdict: pool_rates([each[verdict] for each in several]) for verdict in VERDICTS}
        return several[0] | found

    def by_row(table: str) -> list[dict[str, Any]]:
        return [pool(rows) for rows in zip(*(model[table] for model in models), strict=True)]

    cells = [cell | {"Score": cell["exact"]["score"]} for cell in by_row("cells")]
    floors = [model["guess_floor"] for model in models]
    by_needle = ("average_by_needle", "needles_alone")  # other needles in each report
    return {name: value for name, value in first.items() if name not in by_needle} | {
        "average": pool([model["average"] for model in models]),
        "ceiling": pool([model["ceiling"] for model in models]),
        "seed_scores": [model["average"]["exact"]["score"] for model in models],
        "guess_floor": None if None in floors else pool(floors),
        "average_by_frames": by_row("average_by_frames"),
        "cells": cells,
    }
