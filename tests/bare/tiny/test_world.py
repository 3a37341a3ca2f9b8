"""The tiny world: captions, and questions that have one right answer."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longva_ray.tiny.world import (
    COLOURS,
    KIND_OF,
    THINGS,
    Exchange,
    Scene,
    ask_colour,
    ask_everything,
    ask_first,
    ask_kind,
    ask_last,
    ask_next,
    ask_presence,
    ask_several,
    describe,
    exchanges,
    random_scene,
)

SCENES = [Scene("red", "star"), Scene("blue", "K"), Scene("red", "star"), Scene("pink", "seven")]


scene_lists = st.lists(
    st.builds(Scene, st.sampled_from(list(COLOURS)), st.sampled_from(THINGS)),
    min_size=1,
    max_size=40,
)


def test_captions() -> None:
    assert describe(SCENES[:2]) == "a star red. a K blue."
    assert ask_everything(SCENES[:1]) == Exchange("what is shown?", "a star red.")


def test_answers_name_their_subject_before_the_fact() -> None:
    assert ask_colour(SCENES, "K") == Exchange("what colour is the K?", "the K blue.")
    assert ask_colour(SCENES, "L").answer == "the L not there."
    assert ask_presence(SCENES, "star").answer == "the star is there."
    assert ask_presence(SCENES, "moon").answer == "the moon not there."
    assert ask_kind(SCENES, "letter") == Exchange("which is the letter?", "the letter K blue.")
    assert ask_kind(SCENES[:1], "digit").answer == "the digit not there."
    assert ask_next(SCENES, "K") == Exchange("what comes after the K?", "after the K a star.")
    assert ask_next(SCENES, "L").answer == "after the L not there."
    assert ask_first(SCENES) == Exchange("what comes first?", "first a star.")
    assert ask_last(SCENES) == Exchange("what comes last?", "last a seven.")


def test_ambiguous_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="the star is shown 2 times"):
        ask_colour(SCENES, "star")
    with pytest.raises(ValueError, match="a shape is shown 2 times"):
        ask_kind(SCENES, "shape")
    with pytest.raises(ValueError, match="the star is shown 2 times"):
        ask_next(SCENES, "star")
    with pytest.raises(ValueError, match="nothing comes after the seven"):
        ask_next(SCENES, "seven")
    with pytest.raises(ValueError, match="'mauve' 'star'"):
        Scene("mauve", "star")


@given(scene_lists, st.integers(0, 99))
def test_every_question_has_one_answer(scenes: list[Scene], seed: int) -> None:
    asked = exchanges(scenes, random.Random(seed), absent=0.5)
    assert len({exchange.question for exchange in asked}) == len(asked)
    for exchange in asked:
        assert exchange.answer == answer_by_looking(scenes, exchange.question)


def answer_by_looking(scenes: list[Scene], question: str) -> str:
    """The right answer, read from the scenes alone; fails where there are several."""
    *_, name = words = question.rstrip("?").removesuffix(" there").split()
    found = [place for place, scene in enumerate(scenes) if name in (scene.thing, scene.kind)]
    match words:
        case ["what", "comes", "first"]:
            return f"first a {scenes[0].thing}."
        case ["what", "comes", "last"]:
            return f"last a {scenes[-1].thing}."
        case ["is", "the", _]:
            return f"the {name} {'is' if found else 'not'} there."
        case ["what", "comes", "after", "the", _] if not found:
            return f"after the {name} not there."
        case _ if not found:
            return f"the {name} not there."
    (place,) = found
    match words:
        case ["what", "comes", "after", "the", _]:
            return f"after the {name} a {scenes[place + 1].thing}."
        case ["what", "colour", "is", "the", _]:
            return f"the {name} {scenes[place].colour}."
        case ["which", "is", "the", _]:
            return f"the {name} {scenes[place].thing} {scenes[place].colour}."
    raise AssertionError(question)


def test_a_single_question_has_every_form_equally_often() -> None:
    rng = random.Random(0)
    scenes = [Scene("red", "star"), Scene("blue", "K"), *[Scene("red", "moon")] * 30]
    asked = [ask_several(scenes, rng, most=1)[0] for _ in range(600)]
    begins = ("what colour", "which", "is", "what comes after", "what comes")
    forms = Counter(
        "absent"
        if "not there" in each.answer
        else next(begin for begin in begins if each.question.startswith(begin))
        for each in asked
    )
    assert len(forms) == 6
    assert max(forms.values()) < 2 * min(forms.values())


def test_choices_follow_from_the_seed_and_are_even() -> None:
    first, second = ([random_scene(random.Random(3)) for _ in range(2)] for _ in range(2))
    assert first == second
    rng = random.Random(0)
    counts = Counter(random_scene(rng, ("letter",)).thing for _ in range(2000))
    assert set(counts) == {thing for thing, kind in KIND_OF.items() if kind == "letter"}
    assert max(counts.values()) < 2 * min(counts.values())


def test_colours_are_far_apart() -> None:
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 60**2


def test_few_scenes_are_sometimes_described_as_a_whole() -> None:
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(3)]
    firsts = [ask_several(scenes, rng, most=4)[0] for _ in range(60)]
    assert 15 < sum(first.answer == describe(scenes) for first in firsts) < 45
    many = [random_scene(rng) for _ in range(9)]
    for _ in range(20):
        asked = ask_several(many, rng, most=3)
        assert 1 <= len(asked) <= 3
        assert all(each.answer != describe(many) for each in asked)
