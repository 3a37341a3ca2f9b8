"""Scores of benchmarks beside those of the paper: as a table, and in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from longva_ray.evaluate.benchmarks.catalogue import BENCHMARKS, PAPER_SCORES, PaperScore

HEAD = ("table", "task", "score", "frames", "ours", "paper", "DPO", "source")


def rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each score of each finished run, with what the paper has for it."""
    found = []
    for result in results:
        for metric in BENCHMARKS[result["task"]].metrics:
            if metric not in result["scores"]:
                continue
            plain, dpo = (
                _paper(result["task"], metric, result["frames"], model)
                for model in ("LongVA", "LongVA-DPO")
            )
            found.append(
                {
                    "table": BENCHMARKS[result["task"]].table,
                    "task": result["task"],
                    "score": metric,
                    "frames": result["frames"],
                    "ours": result["scores"][metric],
                    "standard_error": result["errors"].get(metric),
                    "questions": result["questions"],
                    "paper": plain and {"score": plain.score, "frames": plain.frames},
                    "paper_dpo": dpo and {"score": dpo.score, "frames": dpo.frames},
                    "source": plain.source if plain else None,
                }
            )
    return found


def describe_benchmarks(report: Mapping[str, Any]) -> str:
    """The table for a person; then what did not finish."""
    lines = [list(HEAD)]
    for row in report["rows"]:
        error = row["standard_error"]
        ours = f"{row['ours']:.2f}" + ("" if error is None else f" +- {error:.2f}")
        paper = [_cell(row[name], row["frames"]) for name in ("paper", "paper_dpo")]
        named = [row["table"] or "-", row["task"], row["score"], str(row["frames"])]
        lines.append([*named, ours, *paper, row["source"] or "-"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    failed = [
        f"{each['task']}, {each['frames']} frames: {each['error']}" for each in report["failed"]
    ]
    return "\n".join([*table, *failed])


def _paper(task: str, metric: str, frames: int, model: str) -> PaperScore | None:
    """The paper's score with so many frames, or else with the nearest number; None if it has none
    that could be read."""
    same = [
        each
        for each in PAPER_SCORES
        if (each.task, each.metric, each.model) == (task, metric, model)
    ]
    return min(same, key=lambda each: abs(each.frames - frames), default=None)


def _cell(paper: Mapping[str, Any] | None, frames: int) -> str:
    if paper is None:
        return "-"
    return f"{paper['score']}" + (f" at {paper['frames']}" if paper["frames"] != frames else "")
