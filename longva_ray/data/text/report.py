"""Where every token went: the report of a text preparation, as numbers and as a plot.

    corpus, copies, packing -> TextReport -> JSON, PNG

For each domain: tokens read - left out + repeated = tokens written; for all: tokens written +
padding = sequences x T. `TextReport.of` checks both.

Shapes: D documents, P pieces, N sequences, T tokens of one sequence.
"""

import dataclasses
import io
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longva_ray.data.text.corpus import CorpusIndex
from longva_ray.data.text.packing import IntArray, PackPlan
from longva_ray.files.folder import Folder
from longva_ray.settings.base import from_dict

REPORT_NAME = "report.json"


MAX_DOMAINS = 20
"""Bars of the chart by domain; more names would not fit side by side."""


MAX_NAME = 32
"""Characters of a domain's name in the chart."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DomainReport:
    """Documents and tokens of one domain; tokens include one separator for each document."""

    name: str
    documents_read: int
    tokens_read: int
    documents_left_out: int
    tokens_left_out: int
    documents_repeated: int
    """Further copies of documents, beyond the first of each."""
    tokens_repeated: int
    documents_written: int
    tokens_written: int
    long_tokens_read: int
    """Tokens in documents longer than the up-sampling threshold."""
    long_tokens_written: int
    empty_documents: int
    """Documents without text: they are not among those read."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LengthBin:
    """Documents of a length in [tokens_from, 2 x tokens_from)."""

    tokens_from: int
    documents_read: int
    tokens_read: int
    documents_written: int
    tokens_written: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextReport:
    """What was read, what was written, and the difference."""

    domains: tuple[DomainReport, ...]
    lengths: tuple[LengthBin, ...]
    longer_than: int
    sequence_length: int
    num_sequences: int
    num_tokens: int
    """Tokens written, without padding."""
    num_padding: int
    separators: int
    """Tokens among those written that separate documents."""
    cuts: int
    """Places where the end of a sequence cuts a document in two."""
    cut_documents: int
    """Documents (copies counted one by one) with at least one cut."""
    unreadable_records: int
    unreadable: tuple[str, ...]
    """The first records that could not be read and were left out."""

    @classmethod
    def of(
        cls,
        corpus: CorpusIndex,
        copies_D: IntArray,
        plan: PackPlan,
        *,
        longer_than: int,
        sequence_length: int,
    ) -> "TextReport":
        domains = tuple(
            _domain_report(corpus, copies_D, domain, longer_than)
            for domain in range(len(corpus.domain_names))
        )
        written = int((copies_D * corpus.lengths_D).sum())
        padding = plan.num_sequences * sequence_length - written
        assert int(plan.length_P.sum()) == written == sum(d.tokens_written for d in domains)
        assert padding >= 0
        # A document's first piece starts at its first token; every other piece follows a cut.
        continues_P = plan.start_P > 0
        ends_cut_P = np.append(continues_P[1:], False) & ~continues_P
        return cls(
            domains=domains,
            lengths=_length_bins(corpus.lengths_D, copies_D),
            longer_than=longer_than,
            sequence_length=sequence_length,
            num_sequences=plan.num_sequences,
            num_tokens=written,
            num_padding=padding,
            separators=int(copies_D.sum()),
            cuts=int(continues_P.sum()),
            cut_documents=int(ends_cut_P.sum()),
            unreadable_records=sum(counts.unreadable for counts in corpus.counts),
            unreadable=tuple(m for counts in corpus.counts for m in counts.messages)[:100],
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def to_text(self) -> str:
        """A table for a terminal: documents, tokens and shares of each domain before and after."""
        header = ("domain", "documents", "tokens", "share", "long", "->", "documents", "tokens")
        rows = [(*header, "share", "long")]
        before = sum(domain.tokens_read for domain in self.domains)
        for d in self.domains:
            rows.append(
                (
                    d.name,
                    f"{d.documents_read:,}",
                    f"{d.tokens_read:,}",
                    _percent(d.tokens_read, before),
                    _percent(d.long_tokens_read, d.tokens_read),
                    "->",
                    f"{d.documents_written:,}",
                    f"{d.tokens_written:,}",
                    _percent(d.tokens_written, self.num_tokens),
                    _percent(d.long_tokens_written, d.tokens_written),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        empty = sum(domain.empty_documents for domain in self.domains)
        return "\n".join(
            [
                *table,
                f"{self.num_sequences:,} sequences of {self.sequence_length:,} tokens: "
                f"{self.num_tokens:,} tokens ({self.separators:,} separators), "
                f"{self.num_padding:,} of padding; {self.cut_documents:,} documents were cut "
                f"{self.cuts:,} times, {empty:,} were empty, {self.unreadable_records:,} records "
                "could not be read",
            ]
        )


def read_report(place: str) -> TextReport:
    """The report next to token shards."""
    values = json.loads(Folder(place).read(REPORT_NAME))
    for name, row in (("domains", DomainReport), ("lengths", LengthBin)):
        values[name] = tuple(from_dict(row, each) for each in values[name])
    return from_dict(TextReport, values)


def plot_report(report: TextReport) -> bytes:
    """The charts of a report as a PNG file."""
    sink = io.BytesIO()
    draw_report(report).savefig(sink, format="png", dpi=150)
    return sink.getvalue()


def draw_report(report: TextReport) -> Figure:
    """Two charts: tokens by length of their document, and by domain, before and after."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_length, by_domain = figure.subplots(1, 2, width_ratios=[3, 2])
    read = np.array([each.tokens_read for each in report.lengths])
    written = np.array([each.tokens_written for each in report.lengths])
    _bars(by_length, [_short(each.tokens_from) for each in report.lengths], read, written)
    by_length.set_xlabel("length of the document in tokens, from")
    by_length.set_title("Tokens by the length of their document")
    threshold = np.log2(report.longer_than / report.lengths[0].tokens_from) - 0.5
    if 0 < threshold < len(report.lengths):
        by_length.axvline(threshold, color="0.4", linestyle=":", linewidth=1)
    names, read, written = _largest_domains(report.domains)
    _bars(by_domain, names, read, written)
    by_domain.set_title("Tokens by domain")
    by_length.legend(frameon=False)
    return figure


def _largest_domains(domains: Sequence[DomainReport]) -> tuple[list[str], IntArray, IntArray]:
    """Name, tokens read and tokens written of each domain; the smallest as one where there are more
    than `MAX_DOMAINS`."""
    rows = [(_shortened(each.name), each.tokens_read, each.tokens_written) for each in domains]
    if len(rows) > MAX_DOMAINS:
        rows.sort(key=lambda row: -row[1])
        small = rows[MAX_DOMAINS - 1 :]
        rest = (f"{len(small)} others", sum(row[1] for row in small), sum(row[2] for row in small))
        rows = [*rows[: MAX_DOMAINS - 1], rest]
    names, read, written = zip(*rows, strict=True)
    return list(names), np.array(read), np.array(written)


def _bars(axes: Axes, names: list[str], read: IntArray, written: IntArray) -> None:
    places = np.arange(len(names))
    axes.bar(places - 0.2, 100 * read / read.sum(), 0.4, label="read", color="#9db4c0")
    axes.bar(places + 0.2, 100 * written / written.sum(), 0.4, label="written", color="#253237")
    axes.set_xticks(places, names, rotation=90, fontsize=8)  # upright ones would collide
    axes.set_ylabel("% of all tokens")
    axes.spines[["top", "right"]].set_visible(False)


def _domain_report(
    corpus: CorpusIndex, copies_D: IntArray, domain: int, longer_than: int
) -> DomainReport:
    here = np.flatnonzero(corpus.domains_D == domain)
    lengths, copies = corpus.lengths_D[here], copies_D[here]
    long = lengths > longer_than
    repeats = np.maximum(copies - 1, 0)
    report = DomainReport(
        name=corpus.domain_names[domain],
        documents_read=len(here),
        tokens_read=int(lengths.sum()),
        documents_left_out=int((copies == 0).sum()),
        tokens_left_out=int(lengths[copies == 0].sum()),
        documents_repeated=int(repeats.sum()),
        tokens_repeated=int((repeats * lengths).sum()),
        documents_written=int(copies.sum()),
        tokens_written=int((copies * lengths).sum()),
        long_tokens_read=int(lengths[long].sum()),
        long_tokens_written=int((copies * lengths)[long].sum()),
        empty_documents=sum(
            counts.empty.get(corpus.domain_names[domain], 0) for counts in corpus.counts
        ),
    )
    kept = report.tokens_read - report.tokens_left_out
    assert kept + report.tokens_repeated == report.tokens_written
    return report


def _length_bins(lengths_D: IntArray, copies_D: IntArray) -> tuple[LengthBin, ...]:
    exponent_D: npt.NDArray[np.int64] = np.frexp(lengths_D.astype(np.float64))[1].astype(np.int64)
    exponent_D -= 1  # 2^exponent <= length < 2^(exponent + 1)
    bins = []
    for exponent in range(int(exponent_D.min()), int(exponent_D.max()) + 1):
        here = exponent_D == exponent
        lengths, copies = lengths_D[here], copies_D[here]
        bins.append(
            LengthBin(
                tokens_from=2**exponent,
                documents_read=len(lengths),
                tokens_read=int(lengths.sum()),
                documents_written=int(copies.sum()),
                tokens_written=int((copies * lengths).sum()),
            )
        )
    return tuple(bins)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "-"


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _short(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens >= 1024 else str(tokens)
