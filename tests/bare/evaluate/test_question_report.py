"""Answers counted: by question, by video, by field; the table and the figure."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.questions.figure import draw_questions
from longva_ray.evaluate.questions.frames import describe_frames, draw_frames
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.report import Answered, describe_questions, summarise, tally
from longva_ray.evaluate.rates import wilson

ANSWERS = [
    ("one", True, 4, {"duration": "short", "level": 2}),
    ("one", True, 4, {"duration": "short", "level": 1}),
    ("two", True, 2, {"duration": "long", "level": 2}),
    ("two", False, 0, {"duration": "long"}),
    ("three", False, 4, {"duration": "short", "level": None}),
]


def answered() -> list[Answered]:
    return [
        Answered(
            record=QuestionRecord(
                id=str(number),
                item=Item(kind="video", place=f"/{number}"),
                question="?",
                options=tuple("abcd"[:num_options]),
                answer="x",
                fields=fields,
            ),
            item_id=video,
            outcome={"right": right, "said": "x" if right else "y"},
        )
        for number, (video, right, num_options, fields) in enumerate(ANSWERS)
    ]


def score(right: int, trials: int) -> dict[str, Any]:
    return {
        "score": right / trials,
        "interval_95": list(wilson(right, trials)),
        "trials": trials,
    }


def both(questions: Any, videos: Any, *, chance: float) -> dict[str, Any]:
    return {"questions": questions, "chance": pytest.approx(chance), "videos": videos}


def test_questions_videos_and_fields_are_counted() -> None:
    found = summarise(answered(), ["duration", "level"])
    assert found["average"] == both(score(3, 5), score(1, 3), chance=(3 / 4 + 1 / 2) / 5)
    assert found["by"] == {
        "duration": [
            {"value": "short"} | both(score(2, 3), score(1, 2), chance=1 / 4),
            {"value": "long"} | both(score(1, 2), score(0, 1), chance=1 / 4),
        ],
        "level": [
            {"value": "2"} | both(score(2, 2), score(2, 2), chance=(1 / 4 + 1 / 2) / 2),
            {"value": "1"} | both(score(1, 1), score(1, 1), chance=1 / 4),
            {"value": "(missing)"} | both(score(0, 2), score(0, 2), chance=1 / 8),
        ],
    }
    assert tally(answered()[3:4])["chance"] is None
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
        "training_free": [{"rope_base": 3e6} | summarise(answered()[2:4], by)],
    }


def test_a_table_has_a_column_for_each_model(report: dict[str, Any]) -> None:
    lines = describe_questions(report).splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines]
    assert rows[0] == ["", "before", "after", "chance"]
    assert rows[1][:2] == ["all questions", "0.600 [0.231, 0.882] of 5"]
    assert [row[-1] for row in rows[1:4]] == ["0.250", "0.000 [0.000, 0.793] of 1", "0.250"]
    assert rows[2][2] == "0.000 [0.000, 0.793] of 1"
    assert rows[3][0:3:2] == ["duration: short", "-"]
    assert [row[0] for row in rows[4:8]] == [
        "duration: long",
        "level: 2",
        "level: 1",
        "level: (missing)",
    ]
    assert lines[8:] == [
        "training-free, base 3e+06: 0.500",
        "after: 1 question(s) about three not asked: is empty",
        "after: 2 question(s) about four not asked: it has no pixels",
    ]


def test_a_figure_has_a_panel_for_each_field(report: dict[str, Any], tmp_path: Path) -> None:
    draw_questions(report, tmp_path / "two.png")
    draw_questions(report | {"by": []}, tmp_path / "none.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "none.png") as none:
        assert two.height == 2 * none.height


def frames_report() -> dict[str, Any]:
    """Two models; one more answer is right with each larger number of frames."""
    by = ["duration"]

    def asked(right: int) -> list[Answered]:
        return [
            dataclasses.replace(each, outcome={"right": number < right})
            for number, each in enumerate(answered())
        ]

    def model(name: str, first: int) -> dict[str, Any]:
        counts = {8: first, 64: first + 1, 384: first + 2}
        scores = [{"frames": n} | summarise(asked(right), by) for n, right in counts.items()]
        return {"name": name, "not_asked": [], "by_frames": scores}

    models = [model("LongVA", 2), model("other", 0)]
    return {"by": by, "models": models, "training_free": [models[1] | {"rope_base": 1e9}]}


def test_a_table_has_a_row_for_each_number_of_frames() -> None:
    first, second, tried = describe_frames(frames_report()).split("\n\n")
    rows = [re.split(r"\s{2,}", line) for line in first.splitlines()]
    assert rows[0] == ["LongVA", "all", "duration: short", "duration: long"]
    assert [row[0] for row in rows[1:]] == [
        *("8 frames", "64 frames", "384 frames"),
        *("by chance", "questions"),
    ]
    assert [row[1][:5] for row in rows[1:4]] == ["0.400", "0.600", "0.800"]
    assert [row[3][:5] for row in rows[1:4]] == ["0.000", "0.500", "1.000"]
    assert rows[4][1:] == ["0.250", "0.250", "0.250"]
    assert rows[5][1:] == ["5", "3", "2"]
    assert second.startswith("other")
    assert tried == "training-free, base 1e+09: 0.200"


def test_a_figure_has_a_panel_for_each_model(tmp_path: Path) -> None:
    report = frames_report()
    draw_frames(report, tmp_path / "two.png")
    draw_frames({"by": [], "models": report["models"][:1]}, tmp_path / "one.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.height == 2 * one.height
        assert two.width == one.width
