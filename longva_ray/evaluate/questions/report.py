"""Answers to questions -> accuracy with intervals, over all and by field; a table for a person.

Two scores: the share of questions that are right, and the share of videos and images of which every
question is. Each has Wilson's 95% interval, which takes trials as independent: questions about one
video are not quite, so the interval of the first is a little too narrow.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.rates import rate

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


def tally(answered: Iterable[Answered]) -> dict[str, Any]:
    """Both scores: `questions`, and `videos`, images too, of which all these are right."""
    items: dict[str, list[bool]] = {}
    for each in answered:
        items.setdefault(each.item_id, []).append(each.outcome["right"])
    questions = [{"right": right} for item in items.values() for right in item]
    groups = [{"right": all(item)} for item in items.values()]
    return {"questions": rate(questions, "right"), "videos": rate(groups, "right")}


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


def describe_questions(report: Mapping[str, Any]) -> str:
    """A report as a table, a row for each value of a field and a column for each model; then what
    was not answered."""
    models = report["models"]
    rows = [("", [model["name"] for model in models])]
    rows.append(("all questions", [_cell(model["average"]["questions"]) for model in models]))
    rows.append(
        ("all of a video or image", [_cell(model["average"]["videos"]) for model in models])
    )
    for field in report["by"]:
        tables = [{row["value"]: row for row in model["by"][field]} for model in models]
        for value in dict.fromkeys(value for table in tables for value in table):
            found = [table.get(value) for table in tables]
            cells = [_cell(row["questions"]) if row else "-" for row in found]
            rows.append((f"{field}: {value}", cells))
    first = max(len(name) for name, _ in rows)
    width = max(len(cell) for _, cells in rows for cell in cells)
    lines = [
        "  ".join([name.ljust(first), *(cell.ljust(width) for cell in cells)]).rstrip()
        for name, cells in rows
    ]
    lines += [
        f"{model['name']}: {len(each['questions'])} question(s) about "
        f"{each.get('video') or each['image']} not asked: {each['error']}"
        for model in models
        for each in model["not_asked"]
    ]
    return "\n".join(lines)


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["interval_95"]
    return f"{found['score']:.3f} [{low:.3f}, {high:.3f}] of {found['trials']}"
