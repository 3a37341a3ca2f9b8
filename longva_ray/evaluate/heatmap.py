"""Scores over length and depth as a figure like the paper's Figure 4, and curves over length.

    panels of {(length, depth): score} -> a PNG: length on x, depth on y, red over yellow to green,
    a black dotted line at the length the language model was trained on

Panels of one row share their y axis, and all panels one colour bar from 0 to 1. Draws by
matplotlib's own canvas, without a display and without global state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

RED_YELLOW_GREEN = ("#F0496E", "#EBB839", "#0CD79F")
"""Colours of scores 0, 0.5 and 1, those of the paper's figures."""


MAX_TICKS = 8
"""Labels along an axis; more would overlap."""


DPI = 150


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One heatmap: a model, or a model under one setting."""

    title: str
    scores: Mapping[tuple[float, float], float]
    """Score between 0 and 1 at each (length, depth); what is missing stays white."""
    training_length: float | None
    """Where the dotted line stands, in the unit of the lengths; None draws no line."""

    @property
    def lengths(self) -> list[float]:
        return sorted({length for length, _ in self.scores})

    @property
    def depths(self) -> list[float]:
        return sorted({depth for _, depth in self.scores})


def write_heatmaps(
    path: str | Path, rows: Sequence[Sequence[Panel]], *, x_label: str, y_label: str
) -> None:
    """Draw rows of panels into a PNG file.

    Raises ValueError when there is nothing to draw.
    """
    if not rows or not all(rows) or not all(panel.scores for row in rows for panel in row):
        raise ValueError("a heatmap needs at least one panel, and each panel at least one score")
    columns = max(map(len, rows))
    figure = Figure(figsize=(4.2 * columns + 0.9, 3.1 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    cmap = LinearSegmentedColormap.from_list("red_yellow_green", list(RED_YELLOW_GREEN))
    image = None
    for row, row_axes in zip(rows, axes, strict=True):
        for axis, panel in zip(row_axes, row, strict=False):
            image = _draw(axis, panel, cmap)
            axis.set_xlabel(x_label)
        row_axes[0].set_ylabel(y_label)
        for axis in row_axes[len(row) :]:
            axis.set_visible(False)
    assert image is not None
    figure.colorbar(image, ax=axes, label="score", fraction=0.03, pad=0.015)
    figure.savefig(Path(path), dpi=DPI)


def line_position(lengths: Sequence[float], training_length: float) -> float | None:
    """Where a length lies among columns 0, 1, 2, ...; None outside the plot.

    A column's middle is its length; a length may lie up to half a column beyond the first or the
    last.
    """
    if len(lengths) == 1:
        return 0.0 if training_length == lengths[0] else None
    first, last = lengths[1] - lengths[0], lengths[-1] - lengths[-2]
    stretched = [lengths[0] - first / 2, *lengths, lengths[-1] + last / 2]
    if not stretched[0] <= training_length <= stretched[-1]:
        return None
    places = [-0.5, *range(len(lengths)), len(lengths) - 0.5]
    return float(np.interp(training_length, stretched, places))


def short_number(value: float) -> str:
    """32000 -> 32K, 1500 -> 1500, 2048 -> 2048, 0.25 -> 0.25."""
    if value >= 10_000:
        return f"{value / 1000:g}K"
    return f"{value:g}"


def _draw(axis: Axes, panel: Panel, cmap: LinearSegmentedColormap) -> Any:
    lengths, depths = panel.lengths, panel.depths
    grid = np.array(
        [[panel.scores.get((length, depth), np.nan) for length in lengths] for depth in depths]
    )
    image = axis.imshow(grid, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axis.set_title(panel.title, fontsize=10)
    _label(axis.set_xticks, [short_number(length) for length in lengths], rotation=45)
    _label(axis.set_yticks, [f"{depth:.0%}" for depth in depths], rotation=0)
    # White gaps between cells.
    axis.set_xticks(np.arange(-0.5, len(lengths)), minor=True)
    axis.set_yticks(np.arange(-0.5, len(depths)), minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    if panel.training_length is not None:
        place = line_position(lengths, panel.training_length)
        if place is not None:
            axis.axvline(place, color="black", linestyle=":", linewidth=2)
    return image


def _label(set_ticks: Any, labels: Sequence[str], *, rotation: float) -> None:
    step = -(-len(labels) // MAX_TICKS)
    places = range(0, len(labels), step)
    set_ticks(list(places), [labels[place] for place in places], rotation=rotation, fontsize=8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of `write_curves`, and where its dotted line stands."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    training_length: float | None


def write_curves(path: str | Path, curves: Sequence[Curve], *, x_label: str, y_label: str) -> None:
    """Draw curves with a logarithmic y axis into a PNG file; each has its own dotted line.

    Raises ValueError when there is nothing to draw.
    """
    if not curves:
        raise ValueError("no curves to draw; give at least one")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for curve in curves:
        (line,) = axis.plot(curve.x, curve.y, label=curve.name, linewidth=1.5)
        if curve.training_length is not None and curve.training_length <= max(curve.x):
            axis.axvline(curve.training_length, color=line.get_color(), linestyle=":")
    axis.set_yscale("log")
    for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        which(LogFormatter(minor_thresholds=(2.5, 1.2)))  # 20 and 600, not powers of ten
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.legend(fontsize=8)
    figure.savefig(Path(path), dpi=DPI)
