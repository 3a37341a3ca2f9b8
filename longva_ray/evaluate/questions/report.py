"""Answers to questions -> accuracy with intervals, over all and by field; a table for a person.

Two scores: the share of questions that are right, and the share of videos and images of which every
question is. Each has Wilson's 95% interval, which takes trials as independent: questions about one
video are not quite, so the interval of the first is a little too narrow. Beside the first stands
`chance`, what guessing would give: the mean of 1 / number of options, an open question being 0.

The second is stricter than the score of Video-MME-v2 (https://arxiv.org/abs/2604.05015), which also
takes the questions of a video together. There a group of four questions about one ability scores
the square of its share of right answers, and of four steps of one argument those before the first
wrong one count. Files of questions do not say here which kind a group is.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.rates import rate
from longva_ray.evaluate.report import ModelResult, training_free_lines

MISSING = "(missing)"
"""Row of the questions that lack a field."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A question, and what became of it."""

    record: QuestionRecord
    item_id: str
    outcome: TrialOutcome


def label(record: QuestionRecord, field: str) -> str:
    """The row of a table that a question belongs to."""
    value = record.fields.get(field)
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def tally(answered: Sequence[Answered]) -> dict[str, Any]:
    """Both scores: `questions`, with `chance`, and `videos`, images too, of which all these are
    right."""
    items: dict[str, list[bool]] = {}
    for each in answered:
        items.setdefault(each.item_id, []).append(each.outcome["right"])
    questions = [{"right": right} for item in items.values() for right in item]
    groups = [{"right": all(item)} for item in items.values()]
    return {
        "questions": rate(questions, "right"),
        "chance": _chance([each.record for each in answered]),
        "videos": rate(groups, "right"),
    }


def _chance(records: Sequence[QuestionRecord]) -> float | None:
    """Share of right answers by guessing; None where all questions are open."""
    chances = [1 / len(record.options) if record.options else 0.0 for record in records]
    return sum(chances) / len(chances) if any(chances) else None


def summarise(answered: Sequence[Answered], by: Sequence[str]) -> dict[str, Any]:
    """Scores over all, and for each value of each field, in the order in which values appear."""
    tables = {}
    for field in by:
        rows: dict[str, list[Answered]] = {}
        for each in answered:
            rows.setdefault(label(each.record, field), []).append(each)
        tables[field] = [{"value": value} | tally(rows[value]) for value in rows]
    return {
        "average": tally(answered),
        "by": tables,
        "answers": [
            {"id": each.record.id, "answer": each.record.answer} | each.outcome for each in answered
        ],
    }


def score(model: ModelResult) -> float:
    """Share of all questions that are right, the mean over numbers of frames where there are
    several."""
    asked = model.get("by_frames", [model])
    return sum(each["average"]["questions"]["score"] for each in asked) / len(asked)


def describe_questions(report: Mapping[str, Any]) -> str:
    """A report as a table, a row for each value of a field and a column for each model; then what
    was not answered."""
    models = report["models"]
    rows = [("", [*(model["name"] for model in models), "chance"])]
    rows.append(_row("all questions", [model["average"] for model in models]))
    rows.append(
        ("all of a video or image", [_cell(model["average"]["videos"]) for model in models])
    )
    for field in report["by"]:
        tables = [{row["value"]: row for row in model["by"][field]} for model in models]
        for value in dict.fromkeys(value for table in tables for value in table):
            rows.append(_row(f"{field}: {value}", [table.get(value) for table in tables]))
    first = max(len(name) for name, _ in rows)
    width = max(len(cell) for _, cells in rows for cell in cells)
    lines = [
        "  ".join([name.ljust(first), *(cell.ljust(width) for cell in cells)]).rstrip()
        for name, cells in rows
    ]
    return "\n".join([*lines, *further_lines(report)])


def further_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each RoPE base that was tried, and for each video and image that could not be
    read."""
    not_asked = [
        f"{model['name']}: {len(each['questions'])} question(s) about "
        f"{each.get('video') or each['image']} not asked: {each['error']}"
        for model in report["models"]
        for each in model["not_asked"]
    ]
    return [*training_free_lines(report, score), *not_asked]


def _row(name: str, found: Sequence[Mapping[str, Any] | None]) -> tuple[str, list[str]]:
    """A row of the table: each model's score, and what guessing would give."""
    chances = [each["chance"] for each in found if each is not None]
    known = next((chance for chance in chances if chance is not None), None)
    cells = [_cell(each["questions"]) if each else "-" for each in found]
    return name, [*cells, "-" if known is None else f"{known:.3f}"]


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["interval_95"]
    return f"{found['score']:.3f} [{low:.3f}, {high:.3f}] of {found['trials']}"
