"""Questions as prompts, and what counts as which answer."""

from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.questions.ask import prompt_text
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.rules import letter_in, normalised

ABCD = ("Rain", "Snow", "A panda", "Nothing")


def record(options: tuple[str, ...]) -> QuestionRecord:
    return QuestionRecord(
        id="1",
        item=Item(kind="video", place="/1.mp4"),
        question="What falls?",
        options=options,
        answer="B",
        fields={},
    )


def test_a_choice_is_the_prompt_of_the_released_evaluation() -> None:
    wanted = (
        "What falls?\nA. Rain\nB. Snow\nC. A panda\nD. Nothing\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt_text(record(ABCD), "letter") == prompt_text(record(ABCD), "generate") == wanted
    assert prompt_text(record(ABCD), "text") == "What falls?"


@pytest.mark.parametrize("decide", ["letter", "text", "generate"])
def test_an_open_question_is_its_own_prompt(decide: str) -> None:
    assert prompt_text(record(()), decide) == "What falls?"  # type: ignore[arg-type]


def test_26_options_have_26_letters() -> None:
    lines = prompt_text(record(tuple(ascii_uppercase.lower())), "letter").splitlines()
    assert lines[1:-1] == [f"{letter}. {letter.lower()}" for letter in ascii_uppercase]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("B. Snow", "B"),
        ("B: it is cold", "B"),
        ("B, since it is cold", "B"),
        ("B\nbecause A is wrong.", "B"),
        ("(C) A panda", "C"),
        ("The answer is B.", "B"),
        ("The best answer is: (B).", "B"),
        ("Answer: D", "D"),
        ("Option C) is right", "C"),
        ("\uff22", "B"),
        ("snow.", "B"),
        ("A panda", "C"),
        ("A panda falls", None),
        ("A", "A"),
        ("E", None),
        ("I see snow", None),
        ("Because", None),
        ("", None),
        ("!!!!!!", None),
    ],
)
def test_the_letter_of_a_free_answer(text: str, letter: str | None) -> None:
    assert letter_in(text, ABCD) == letter


def test_a_text_of_two_options_names_none() -> None:
    assert letter_in("snow", ("Snow", "snow.", "rain")) is None


@given(text=st.text(), num_options=st.integers(2, 26))
def test_any_free_answer_names_an_option_or_none(text: str, num_options: int) -> None:
    letters = ascii_uppercase[:num_options]
    options = tuple(f"option {letter}" for letter in letters)
    assert letter_in(text, options) in {None, *letters}
    for letter in letters:
        assert letter_in(f"{letter}.", options) == letter_in(f"({letter})", options) == letter


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The K red.", " the  K\nred ", True),
        ("\u201cStraße\u201d", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("雪。", "雪", True),
        ("5", "-5", False),
        ("3.5", "35", False),
        ("the K red", "K red", False),
        ("?", "!", False),
        ("", "?", False),
    ],
)
def test_which_open_answers_are_the_same(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same
