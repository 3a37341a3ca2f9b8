"""Figures are read back; their colours and lines are checked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from longva_ray.evaluate.heatmap import (
    RED_YELLOW_GREEN,
    Curve,
    Panel,
    line_position,
    short_number,
    write_curves,
    write_heatmaps,
)

RED, YELLOW, GREEN = (np.array(ImageColor.getrgb(colour)) for colour in RED_YELLOW_GREEN)


def grid(score: float) -> dict[tuple[float, float], float]:
    return {(length, depth): score for length in (100.0, 200.0, 300.0) for depth in (0.0, 0.5, 1.0)}


def share(pixels_YXC: np.ndarray, colour: np.ndarray) -> float:
    return float((np.abs(pixels_YXC.astype(int) - colour).max(axis=-1) <= 6).mean())


def drawn(path: Path, *panels: Panel) -> np.ndarray:
    write_heatmaps(path, [panels], x_label="frames", y_label="depth")
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("score", "colour"), [(0.0, RED), (0.5, YELLOW), (1.0, GREEN)])
def test_colours_say_the_score(tmp_path: Path, score: float, colour: np.ndarray) -> None:
    pixels = drawn(tmp_path / "map.png", Panel(title="m", scores=grid(score), training_length=None))
    others = [other for other in (RED, YELLOW, GREEN) if other is not colour]
    assert share(pixels, colour) > 0.4
    assert all(share(pixels, other) < 0.02 for other in others)


def test_missing_cells_stay_white(tmp_path: Path) -> None:
    some = {place: score for place, score in grid(1.0).items() if place[0] != 200.0}
    some[200.0, 0.0] = 1.0
    pixels = drawn(tmp_path / "map.png", Panel(title="m", scores=some, training_length=None))
    full = drawn(tmp_path / "full.png", Panel(title="m", scores=grid(1.0), training_length=None))
    assert share(pixels, GREEN) == pytest.approx(share(full, GREEN) * 7 / 9, rel=0.1)


def test_panels_and_rows_make_the_figure_larger(tmp_path: Path) -> None:
    panel = Panel(title="m", scores=grid(1.0), training_length=150.0)
    one = drawn(tmp_path / "one.png", panel)
    four = drawn(tmp_path / "four.png", panel, panel, panel, panel)
    assert four.shape[0] == one.shape[0]
    assert four.shape[1] > 3 * one.shape[1]
    write_heatmaps(tmp_path / "rows.png", [[panel], [panel, panel]], x_label="x", y_label="y")
    with Image.open(tmp_path / "rows.png") as rows:
        assert rows.height > 1.8 * one.shape[0]


def test_the_training_length_is_a_dotted_black_line(tmp_path: Path) -> None:
    scores = grid(1.0)
    without = drawn(tmp_path / "a.png", Panel(title="m", scores=scores, training_length=None))
    line = drawn(tmp_path / "b.png", Panel(title="m", scores=scores, training_length=200.0))
    # Only where it is drawn do the figures differ: one narrow column, part of its pixels black.
    changed_X = np.flatnonzero((line != without).any(axis=(0, 2)))
    assert 1 <= np.ptp(changed_X) < 12
    middle = line[:, int(np.median(changed_X))]
    inside = middle[np.flatnonzero((middle != 255).any(axis=-1))]
    assert 0.2 < (inside.max(axis=-1) < 80).mean() < 0.8


@pytest.mark.parametrize(
    ("training", "place"),
    [(100, 0.0), (150, 0.5), (300, 2.0), (350, 2.5), (50, -0.5), (40, None), (360, None)],
)
def test_where_the_line_stands(training: float, place: float | None) -> None:
    assert line_position([100, 200, 300], training) == place


def test_lengths_are_written_short() -> None:
    assert [short_number(n) for n in (200, 2048, 32_000, 224_000)] == ["200", "2048", "32K", "224K"]


@pytest.mark.parametrize("rows", [[], [[]], [[Panel(title="m", scores={}, training_length=None)]]])
def test_nothing_to_draw_is_an_error(tmp_path: Path, rows: list[list[Panel]]) -> None:
    with pytest.raises(ValueError, match="needs at least one"):
        write_heatmaps(tmp_path / "map.png", rows, x_label="x", y_label="y")


def test_curves_are_drawn(tmp_path: Path) -> None:
    curves = [
        Curve(name="before", x=[1, 2, 3], y=[5.0, 6.0, 900.0], training_length=2),
        Curve(name="after", x=[1, 2, 3], y=[5.0, 5.5, 6.0], training_length=None),
    ]
    write_curves(tmp_path / "curves.png", curves, x_label="position", y_label="perplexity")
    with Image.open(tmp_path / "curves.png") as image:
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 50
    with pytest.raises(ValueError, match="no curves"):
        write_curves(tmp_path / "none.png", [], x_label="x", y_label="y")
