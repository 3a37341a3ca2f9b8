"""Accuracy by number of frames, as Tables 4 and 6 of the paper have it: the table and the figure.

    report of several frame counts -> a row for each count, a column for each value of a field
                                   -> a PNG: a panel for each model and field, a line for each value

Every count asks about at most so many frames, spread evenly over those that are encoded. A video
with fewer frames is asked with all of them, once, and its answers count for every larger number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longva_ray.evaluate.questions.report import further_lines

DPI = 150

_ALL = "all"

_PANEL_INCHES = (6.0, 3.6)


def describe_frames(report: Mapping[str, Any]) -> str:
    """A table for each model; then what was not answered."""
    tables = [_table(model, report["by"]) for model in report["models"]]
    return "\n\n".join([*tables, *further_lines(report)])


def _table(model: Mapping[str, Any], by: Sequence[str]) -> str:
    columns = _columns(model, by)
    rows = [[model["name"], _ALL, *(f"{field}: {value}" for field, value in columns)]]
    for asked in model["by_frames"]:
        found = [asked["average"], *(_row(asked, field, value) for field, value in columns)]
        rows.append([f"{asked['frames']} frames", *(_cell(each["questions"]) for each in found)])
    first = model["by_frames"][0]
    found = [first["average"], *(_row(first, field, value) for field, value in columns)]
    if first["average"]["chance"] is not None:
        rows.append(["by chance", *(_chance(each["chance"]) for each in found)])
    rows.append(["questions", *(str(each["questions"]["trials"]) for each in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def draw_frames(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report of several frame counts into a PNG file."""
    models, fields = report["models"], report["by"] or [None]
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(fields), height * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(fields), squeeze=False)
    for model, row in zip(models, axes, strict=True):
        for field, axis in zip(fields, row, strict=True):
            _panel(axis, model, field)
            axis.set_title(model["name"] if field is None else f"{model['name']}, by {field}")
    figure.savefig(path, dpi=DPI)


def _panel(axis: Axes, model: Mapping[str, Any], field: str | None) -> None:
    counts = [asked["frames"] for asked in model["by_frames"]]
    values = [] if field is None else [value for _, value in _columns(model, [field])]
    lines = {_ALL: [asked["average"] for asked in model["by_frames"]]} | {
        value: [_row(asked, field, value) for asked in model["by_frames"]] for value in values
    }
    for place, (name, found) in enumerate(lines.items()):
        heights = np.array([each["questions"]["score"] for each in found])
        low, high = np.array([each["questions"]["interval_95"] for each in found]).T
        # A little apart, so that intervals do not hide each other; an interval may end an ulp
        # within its score.
        places = np.array(counts) * 2.0 ** (0.06 * (place - (len(lines) - 1) / 2))
        spread = np.clip([heights - low, high - heights], 0, None)
        axis.errorbar(
            places,
            heights,
            yerr=spread,
            marker="o",
            markersize=4,
            capsize=2,
            color="black" if name == _ALL else f"C{place - 1}",
            label=name,
        )
    chance = lines[_ALL][0]["chance"]
    if chance is not None:
        axis.axhline(chance, color="0.4", linestyle=":", linewidth=1, label="by chance")
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.set_xlabel("frames")
    axis.set_ylabel("right answers")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8)


def _columns(model: Mapping[str, Any], by: Sequence[str]) -> list[tuple[str, str]]:
    """Field and value of each subset; all counts have the same."""
    first = model["by_frames"][0]
    return [(field, row["value"]) for field in by for row in first["by"][field]]


def _row(asked: Mapping[str, Any], field: str | None, value: str) -> Mapping[str, Any]:
    (row,) = [row for row in asked["by"][field] if row["value"] == value]
    found: Mapping[str, Any] = row
    return found


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["interval_95"]
    return f"{found['score']:.3f} [{low:.3f}, {high:.3f}]"


def _chance(chance: float | None) -> str:
    return "-" if chance is None else f"{chance:.3f}"
