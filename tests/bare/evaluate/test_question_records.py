"""A file of questions: what is read from it, and what is refused on which line."""

import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.questions.records import QuestionRecord, check_fields, read_questions

CHOICE = {
    "id": "7-1",
    "video": "clips/7.mp4",
    "question": "What falls?",
    "options": ["Rain", "Snow"],
    "answer": "B",
}


def write(folder: Path, *rows: Any) -> str:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    return str(path)


def read_one(folder: Path, **changes: Any) -> QuestionRecord:
    row = {name: value for name, value in (CHOICE | changes).items() if value is not ...}
    (record,) = read_questions(write(folder, row))
    return record


def test_a_question_with_everything(tmp_path: Path) -> None:
    more = {"duration": "short", "tags": ["a", 1]}
    assert read_one(tmp_path, **more) == QuestionRecord(
        id="7-1",
        item=Item(kind="video", place=f"{tmp_path}/clips/7.mp4"),
        question="What falls?",
        options=("Rain", "Snow"),
        answer="B",
        fields=more,
    )


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", 1])
def test_a_letter_or_an_index_is_the_right_option(tmp_path: Path, answer: Any) -> None:
    assert read_one(tmp_path, answer=answer).answer == "B"


def test_letters_that_stand_before_the_options_are_taken_off(tmp_path: Path) -> None:
    assert read_one(tmp_path, options=["A. Rain", "B. Snow"]).options == ("Rain", "Snow")
    assert read_one(tmp_path, options=["A. Rain", "Snow"]).options == ("A. Rain", "Snow")
    assert read_one(tmp_path, options=["B. Goode", "A. Lee"]).options == ("B. Goode", "A. Lee")


@pytest.mark.parametrize("options", [..., None])
def test_without_options_the_answer_is_a_text(tmp_path: Path, options: Any) -> None:
    record = read_one(tmp_path, options=options, answer="Snow, 雪.")
    assert (record.options, record.answer) == ((), "Snow, 雪.")


def test_where_videos_are(tmp_path: Path) -> None:
    for video in ("/data/7.mp4", "s3://bucket/7.mp4?region=x"):
        assert read_one(tmp_path, video=video).item == Item(kind="video", place=video)
    assert read_one(tmp_path, video="~/7.mp4").item.place == str(Path.home() / "7.mp4")
    encoded = read_one(tmp_path, video="0123456789abcdef" * 2)
    assert encoded.is_encoded
    assert encoded.item.place == "0123456789abcdef" * 2


def test_an_image_in_place_of_a_video(tmp_path: Path) -> None:
    for video in (..., None):
        record = read_one(tmp_path, video=video, image="pictures/7.png")
        assert record.item == Item(kind="image", place=f"{tmp_path}/pictures/7.png")
    # Images have no ids that a user would know.
    named = read_one(tmp_path, video=..., image="0123456789abcdef" * 2)
    assert (named.is_encoded, named.item.place) == (False, f"{tmp_path}/{'0123456789abcdef' * 2}")


def test_a_number_is_an_id_and_texts_may_hold_ends_of_lines(tmp_path: Path) -> None:
    record = read_one(tmp_path, id=12, question="one\u2028two\nthree")
    assert (record.id, record.question) == ("12", "one\u2028two\nthree")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ...}, "id is None; want a text"),
        ({"id": True}, "id is True; want a text"),
        ({"video": " "}, "video is ' '; want a text"),
        ({"video": ...}, "video is None; want a text"),
        ({"video": ..., "image": 7}, "image is 7; want a text"),
        ({"image": "7.png"}, "it names a video and an image; want one of them"),
        ({"question": 3}, "question is 3; want a text"),
        ({"question": "\ud800"}, "question is not Unicode"),
        ({"options": []}, "want a list of 2 to 26 texts"),
        ({"options": ["one"]}, "want a list of 2 to 26 texts"),
        ({"options": "AB"}, "want a list of 2 to 26 texts"),
        ({"options": ["x"] * 27}, "want a list of 2 to 26 texts"),
        ({"options": ["x", 2]}, "an option is 2; want a text"),
        ({"answer": "C"}, "answer is 'C'; want the right option's letter, A to B, or its index"),
        ({"answer": ""}, "answer is ''"),
        ({"answer": "Snow"}, "answer is 'Snow'"),
        ({"answer": 2}, "answer is 2"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "answer is True"),
        ({"answer": ...}, "answer is None"),
        ({"options": ..., "answer": 3}, "answer is 3; want a text"),
    ],
)
def test_what_is_no_question_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    row = {name: value for name, value in (CHOICE | changes).items() if value is not ...}
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{json.dumps(CHOICE | {'id': 'first'})}\n\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 3: ") as error:
        read_questions(str(path))
    assert message in str(error.value)


def test_a_field_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    line = '{"id": "1", "video": "a.mp4", "question": "?", "answer": "a", "answer": "b"}'
    (tmp_path / "questions.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"line 1: two columns or fields are named 'answer'"):
        read_questions(str(tmp_path / "questions.jsonl"))


def test_an_id_that_is_there_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, CHOICE, CHOICE | {"id": 5}, CHOICE | {"id": "5"})
    with pytest.raises(ValueError, match="line 3: id '5' is that of line 2, too"):
        read_questions(path)


@pytest.mark.parametrize("line", ['{"id": ', "[1]", '"text"', "\u00ff"])
def test_lines_that_hold_no_object_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(line.encode("latin-1"))
    with pytest.raises(ValueError, match="line 1: "):
        read_questions(str(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is empty; want a question on each line"):
        read_questions(write(tmp_path))


def test_a_field_that_no_question_has_is_refused(tmp_path: Path) -> None:
    records = [read_one(tmp_path, duration="short"), read_one(tmp_path, category=None)]
    check_fields(records, ["duration", "category"])
    with pytest.raises(ValueError, match=r"field\(s\) kind; there are: category, duration"):
        check_fields(records, ["duration", "kind"])


printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(max_examples=30)
@given(
    question=printable,
    options=st.lists(printable, min_size=2, max_size=26),
    data=st.data(),
)
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, question: str, options: list[str], data: Any
) -> None:
    right = data.draw(st.integers(0, len(options) - 1))
    folder = tmp_path_factory.getbasetemp()
    record = read_one(folder, question=question, options=options, answer=right)
    assert record.question == question
    assert record.options == tuple(options)  # none can hold "A. ", which has a space
    assert record.answer == ascii_uppercase[right]
