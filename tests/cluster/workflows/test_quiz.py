"""The quiz asks what can be answered, counts what was, and longva-tiny passes its short part."""

from collections import Counter

import pytest

from longva_ray.recipes import checkpoint_of, get_recipe
from longva_ray.workflows.quiz import Asked, describe_quiz, run_quiz

FORMS = ["colour", "kind", "presence", "next", "first", "last"]


def test_longva_tiny_answers_every_form() -> None:
    checkpoint = checkpoint_of(get_recipe("tiny"))
    asked = run_quiz(checkpoint, lengths=(3, 12), lists=4, seed=1)
    forms = Counter(each.form for each in asked if each.num_frames == 12)
    assert forms["first"] == forms["last"] == forms["presence"] == forms["colour, absent"] == 4
    assert {*FORMS, "everything"} <= {each.form for each in asked if each.num_frames == 3}
    assert "everything" not in forms
    wrong = [each for each in asked if not each.is_right]
    assert len(wrong) <= len(asked) // 10, wrong


def test_a_table_counts_right_answers() -> None:
    asked = [
        Asked("colour", 3, "?", "the K red.", "the K red."),
        Asked("colour", 3, "?", "the K red.", "the K red. the"),
        Asked("kind", 12, "?", "the letter K red.", "the letter K red."),
    ]
    rows = [row.split() for row in describe_quiz(asked).splitlines()]
    assert rows == [
        ["3", "12"],
        ["colour", "0.50", "of", "2", "-"],
        ["kind", "-", "1.00", "of", "1"],
    ]


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 list of each, got \\(3,\\) and 0"):
        run_quiz("nowhere", lengths=(3,), lists=0, seed=0)
