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
    ask_kind,
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


def test_ambiguous_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="the star is shown 2 times"):
        ask_colour(SCENES, "star")
    with pytest.raises(ValueError, match="a shape is shown 2 times"):
        ask_kind(SCENES, "shape")
    with pytest.raises(ValueError, match="'mauve' 'star'"):
        Scene("mauve", "star")


@given(scene_lists, st.integers(0, 99))
def test_every_question_has_one_answer(scenes: list[Scene], seed: int) -> None:
    asked = exchanges(scenes, random.Random(seed), absent=0.5)
    assert len({exchange.question for exchange in asked}) == len(asked)
    counts = Counter(scene.thing for scene in scenes)
    for exchange in asked:
        if exchange.question.startswith("what colour"):
            thing = exchange.question.removeprefix("what colour is the ").rstrip("?")
            colours = [scene.colour for scene in scenes if scene.thing == thing]
            assert counts[thing] <= 1
            assert exchange.answer == f"the {thing} {colours[0] if colours else 'not there'}."


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
