"""The charts of a report: every label can be read, and nothing is missing from the bars."""

import dataclasses
import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from longva_ray.data.text.report import DomainReport, LengthBin, TextReport, draw_report

COUNTS = [field.name for field in dataclasses.fields(DomainReport) if field.name != "name"]


def report(num_domains: int, num_lengths: int) -> TextReport:
    """Domains with names as data sets have them, of 100, 200, ... tokens."""
    domains = [
        DomainReport(
            name=f"RedPajamaStackExchange/part-{number:03d}/with/a/long/path",
            **dict.fromkeys(COUNTS, 100 * (number + 1)),
        )
        for number in range(num_domains)
    ]
    lengths = [
        LengthBin(
            tokens_from=2**number,
            documents_read=1,
            tokens_read=2**number,
            documents_written=1,
            tokens_written=2**number,
        )
        for number in range(num_lengths)
    ]
    others = {
        field.name: 1
        for field in dataclasses.fields(TextReport)
        if field.name not in ("domains", "lengths", "unreadable")
    }
    return TextReport(domains=tuple(domains), lengths=tuple(lengths), unreadable=(), **others)


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize(("num_domains", "num_lengths"), [(1, 1), (7, 12), (20, 22), (300, 24)])
def test_labels_do_not_collide(num_domains: int, num_lengths: int) -> None:
    figure = drawn(draw_report(report(num_domains, num_lengths)))
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
        assert all(figure.bbox.x0 <= box.x0 and figure.bbox.y0 <= box.y0 for box in boxes)


def test_small_domains_share_a_bar() -> None:
    by_domain = draw_report(report(300, 3)).axes[1]
    names = [label.get_text() for label in by_domain.get_xticklabels()]
    assert len(names) == 20
    assert "part-299" in names[0]
    assert names[-1] == "281 others"
    assert sum(bar.get_height() for bar in by_domain.containers[0]) == pytest.approx(100)
