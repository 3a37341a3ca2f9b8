"""Answers counted: by question, by video, by field; the table and the figure."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.questions.figure import draw_questions
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.report import Answered, describe_questions, summarise
from longva_ray.evaluate.rates import wilson

ANSWERS = [
    ("one", True, {"duration": "short", "level": 2}),
    ("one", True, {"duration": "short", "level": 1}),
    ("two", True, {"duration": "long", "level": 2}),
    ("two", False, {"duration": "long"}),
    ("three", False, {"duration": "short", "level": None}),
]


def answered() -> list[Answered]:
    return [
        Answered(
            record=QuestionRecord(
                id=str(number),
                item=Item(kind="video", place=f"/{number}"),
                question="?",
                options=(),
                answer="x",
                fields=fields,
            ),
            item_id=video,
            outcome={"right": right, "said": "x" if right else "y"},
        )
        for number, (video, right, fields) in enumerate(ANSWERS)
    ]


def score(right: int, trials: int) -> dict[str, Any]:
    return {
        "score": right / trials,
        "interval_95": list(wilson(right, trials)),
        "trials": trials,
    }


def test_questions_videos_and_fields_are_counted() -> None:
    found = summarise(answered(), ["duration", "level"])
    assert found["average"] == {"questions": score(3, 5), "videos": score(1, 3)}
    assert found["by"] == {
        "duration": [
            {"value": "short", "questions": score(2, 3), "videos": score(1, 2)},
            {"value": "long", "questions": score(1, 2), "videos": score(0, 1)},
        ],
        "level": [
            {"value": "2", "questions": score(2, 2), "videos": score(2, 2)},
            {"value": "1", "questions": score(1, 1), "videos": score(1, 1)},
            {"value": "(missing)", "questions": score(0, 2), "videos": score(0, 2)},
        ],
    }
    assert found["answers"][3] == {"id": "3", "answer": "x", "right": False, "said": "y"}


@pytest.fixture
def report() -> dict[str, Any]:
    """A second model was asked about two of the videos only."""
    by = ["duration", "level"]
    lost = [
        {"video": "three", "error": "is empty", "questions": ["4"]},
        {"image": "four", "error": "it has no pixels", "questions": ["5", "6"]},
    ]
    return {
        "by": by,
        "models": [
            {"name": "before", "not_asked": []} | summarise(answered(), by),
            {"name": "after", "not_asked": lost} | summarise(answered()[2:4], by),
        ],
    }


def test_a_table_has_a_column_for_each_model(report: dict[str, Any]) -> None:
    lines = describe_questions(report).splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    assert rows[0] == ["", "before", "after"]
    assert rows[1][:2] == ["all questions", "0.600 [0.231, 0.882] of 5"]
    assert rows[2][2] == "0.000 [0.000, 0.793] of 1"
    assert rows[3][0::2] == ["duration: short", "-"]
    assert [row[0] for row in rows[4:8]] == [
        "duration: long",
        "level: 2",
        "level: 1",
        "level: (missing)",
    ]
    assert lines[8:] == [
        "after: 1 question(s) about three not asked: is empty",
        "after: 2 question(s) about four not asked: it has no pixels",
    ]


def test_a_figure_has_a_panel_for_each_field(report: dict[str, Any], tmp_path: Path) -> None:
    draw_questions(report, tmp_path / "two.png")
    draw_questions(report | {"by": []}, tmp_path / "none.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "none.png") as none:
        assert two.height == 2 * none.height
