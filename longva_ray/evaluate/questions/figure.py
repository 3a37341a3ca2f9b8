"""Accuracy by field as bars with intervals, a colour for each model.

report -> a PNG: a panel for each field, or one panel over all questions; dotted, what guessing
would give
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150

_INCHES_A_BAR = 0.35


def draw_questions(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report of questions into a PNG file."""
    models, fields = report["models"], report["by"]
    panels = [(field, _tables(models, field)) for field in fields] or [("", [{}] * len(models))]
    most = max(len(_values(tables)) for _, tables in panels)
    size = (max(5.0, 1.5 + _INCHES_A_BAR * most * (len(models) + 1)), 3.2 * len(panels))
    figure = Figure(figsize=size, layout="constrained")
    for axis, (field, tables) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
    ):
        for place, (model, table) in enumerate(zip(models, tables, strict=True)):
            everything = {"all": model["average"]}
            _bars(axis, everything | table, ["all", *_values(tables)], place, models)
        axis.set_xlabel(field)
        axis.set_ylabel("right answers")
        axis.set_ylim(0, 1)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=DPI)


def _tables(models: Any, field: str) -> list[dict[str, Any]]:
    """Of each model, the scores of each value."""
    return [{row["value"]: row for row in model["by"][field]} for model in models]


def _values(tables: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(value for table in tables for value in table))


def _bars(axis: Axes, scores: dict[str, Any], values: list[str], place: int, models: Any) -> None:
    """The bars of one model, beside those of the others."""
    width = 0.8 / len(models)
    here = [number for number, value in enumerate(values) if value in scores]
    found = [scores[values[number]] for number in here]
    heights = np.array([each["questions"]["score"] for each in found])
    low, high = np.array([each["questions"]["interval_95"] for each in found]).T
    middles = np.array(here) + (place - (len(models) - 1) / 2) * width
    # An interval may end an ulp within its score.
    spread = np.clip([heights - low, high - heights], 0, None)
    axis.bar(middles, heights, width, yerr=spread, capsize=2, label=models[place]["name"])
    for middle, each in zip(middles, found, strict=True):
        if each["chance"] is not None:
            sides = (middle - width / 2, middle + width / 2)
            axis.plot(sides, [each["chance"]] * 2, color="black", linestyle=":", linewidth=1)
    axis.set_xticks(range(len(values)), values, rotation=30, ha="right", fontsize=8)
