"""What exists in the tiny world, and how one speaks of it: scenes, questions and their answers.

    scenes -> "a star red. a moon blue." (four tokens a scene) -> question and answer

A scene shows one thing in one colour. As a frame it becomes four visual tokens; in words it is four
tokens of `longva_ray.tiny.tokenizer`. A list of described scenes is therefore to the language model
what a video is after alignment. Haystacks show shapes only, and needles letters and digits, so that
a needle differs from its haystack by something that a vision tower separates surely. Letters and
digits that look alike (O and 0, S and 5, C and the moon, M and N ...) are left out.

Captions name the thing first, as French does, and an answer begins with the words of the question
that name what it is about ("what colour is the K?", "the K red."): what must be recalled then
directly follows the token by which it is found. A model of this size learns that long before it
learns to put together an answer of another form. No caption has a "the", so what follows it is
found in the question, however long the video is.

Renders nothing; every choice is made by the `random.Random` that the caller seeds.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

Rgb = tuple[int, int, int]


Kind = Literal["shape", "letter", "digit"]


COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "red": (225, 30, 30),
        "green": (20, 150, 40),
        "blue": (35, 65, 235),
        "yellow": (250, 225, 30),
        "purple": (130, 40, 170),
        "pink": (255, 140, 190),
        "white": (250, 250, 250),
        "cyan": (40, 215, 225),
    }
)


SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "moon",
    "arrow",
    "ring",
    "house",
    "flower",
    "cloud",
)


LETTERS = tuple("AEFHJKLMPRTUXY")


DIGITS: Mapping[str, str] = MappingProxyType(
    {
        "two": "2",
        "three": "3",
        "four": "4",
        "five": "5",
        "six": "6",
        "seven": "7",
        "eight": "8",
        "nine": "9",
    }
)
"""The word for a digit in a text, and the character that a frame shows."""


THINGS_OF: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {"shape": SHAPES, "letter": LETTERS, "digit": tuple(DIGITS)}
)


THINGS = SHAPES + LETTERS + tuple(DIGITS)


KIND_OF: Mapping[str, Kind] = MappingProxyType(
    {thing: kind for kind, things in THINGS_OF.items() for thing in things}
)


TOKENS_A_SCENE = 4


MOST_CAPTIONED = 8
"""Scenes in the longest list that a conversation describes as a whole."""


CAPTIONED = 0.5
"""Of the conversations about so few scenes, how many begin with their description."""


ABSENT = 0.25
"""Questions of a conversation about things that are not there, for one about a thing that is."""


MOST_PRESENT = 3
"""Things that are there and of which it is asked whether they are: such an answer says little."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """One thing in one colour: what a frame of the tiny world shows."""

    colour: str
    thing: str

    def __post_init__(self) -> None:
        if self.colour not in COLOURS or self.thing not in KIND_OF:
            raise ValueError(
                f"a scene shows a thing of {', '.join(THINGS)} in a colour of {', '.join(COLOURS)};"
                f" got {self.colour!r} {self.thing!r}"
            )

    @property
    def kind(self) -> Kind:
        return KIND_OF[self.thing]

    def __str__(self) -> str:
        """The caption of the frame: exactly `TOKENS_A_SCENE` tokens, the thing first."""
        return f"a {self.thing} {self.colour}."


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """A question about a list of scenes and its one right answer."""

    question: str
    answer: str


def describe(scenes: Sequence[Scene]) -> str:
    """The scenes in words, `TOKENS_A_SCENE` tokens each: "a star red. a moon blue."."""
    return " ".join(map(str, scenes))


def random_scene(rng: random.Random, kinds: Sequence[Kind] = ("shape", "letter", "digit")) -> Scene:
    """Any thing of one of the kinds, each thing equally likely, in any colour."""
    things = [thing for kind in kinds for thing in THINGS_OF[kind]]
    return Scene(rng.choice(list(COLOURS)), rng.choice(things))


def needles_among_shapes(rng: random.Random, num_scenes: int) -> list[Scene]:
    """Shapes, and letters and digits, each at most once, at random places; half of the time one,
    since only of a single one it can be asked which it is."""
    scenes = [random_scene(rng, ("shape",)) for _ in range(num_scenes)]
    most = min(num_scenes, len(LETTERS) + len(DIGITS))
    num_needles = 1 if rng.random() < 0.5 else rng.randint(1, most)
    needles = rng.sample([*LETTERS, *DIGITS], num_needles)
    for place, thing in zip(rng.sample(range(num_scenes), num_needles), needles, strict=True):
        scenes[place] = Scene(scenes[place].colour, thing)
    return scenes


def ask_colour(scenes: Sequence[Scene], thing: str) -> Exchange:
    """What colour is the thing? Needs a thing that occurs once or never."""
    shown = _only(scenes, lambda scene: scene.thing == thing, f"the {thing}")
    return Exchange(
        f"what colour is the {thing}?", f"the {thing} {shown.colour if shown else 'not there'}."
    )


def ask_presence(scenes: Sequence[Scene], thing: str) -> Exchange:
    """Is the thing there? It may occur any number of times."""
    there = any(scene.thing == thing for scene in scenes)
    return Exchange(f"is the {thing} there?", f"the {thing} {'is' if there else 'not'} there.")


def ask_kind(scenes: Sequence[Scene], kind: Kind) -> Exchange:
    """Which is the letter (or digit, or shape)? Needs a kind that occurs once or never."""
    shown = _only(scenes, lambda scene: scene.kind == kind, f"a {kind}")
    found = f"{shown.thing} {shown.colour}" if shown else "not there"
    return Exchange(f"which is the {kind}?", f"the {kind} {found}.")


def ask_next(scenes: Sequence[Scene], thing: str) -> Exchange:
    """What comes after the thing? Needs a thing that occurs once, but not last, or never.

    The answer has no colour: by the thing alone it could not be found again.
    """
    shown = _only(scenes, lambda scene: scene.thing == thing, f"the {thing}")
    if shown is not None and shown == scenes[-1]:
        raise ValueError(f"nothing comes after the {thing}")
    found = f"a {scenes[scenes.index(shown) + 1].thing}" if shown else "not there"
    return Exchange(f"what comes after the {thing}?", f"after the {thing} {found}.")


def ask_first(scenes: Sequence[Scene]) -> Exchange:
    """What comes first? Needs a scene."""
    return Exchange("what comes first?", f"first a {scenes[0].thing}.")


def ask_last(scenes: Sequence[Scene]) -> Exchange:
    """What comes last? Needs a scene."""
    return Exchange("what comes last?", f"last a {scenes[-1].thing}.")


def ask_everything(scenes: Sequence[Scene]) -> Exchange:
    """The caption of an image, or of a short video."""
    return Exchange("what is shown?", describe(scenes))


def ask_several(scenes: Sequence[Scene], rng: random.Random, *, most: int) -> list[Exchange]:
    """A conversation of at most `most` questions, at least one; about few scenes it may begin with
    what they all are."""
    found = exchanges(scenes, rng, absent=ABSENT)
    if len(scenes) <= MOST_CAPTIONED and rng.random() < CAPTIONED:
        found.insert(0, ask_everything(scenes))
    return found[:most]


def exchanges(scenes: Sequence[Scene], rng: random.Random, *, absent: float) -> list[Exchange]:
    """Questions about single things that have one right answer, in random order.

    Of each form there are as many as there are things to ask it of, but which form comes next does
    not depend on that: of a conversation of a single question, every form must be learned.

    Args:
        scenes: at least one.
        rng: chooses the things that are not there, and the order.
        absent: questions about things that are not there, as a fraction of those about things that
            are.
    """
    there, missing = forms(scenes, rng)
    num_missing = round(absent * sum(map(len, there.values())))
    not_there = _form_by_form(missing.values(), rng)[:num_missing]
    return _form_by_form([*there.values(), not_there], rng)


def forms(
    scenes: Sequence[Scene], rng: random.Random
) -> tuple[dict[str, list[Exchange]], dict[str, list[Exchange]]]:
    """All questions about single things that have one right answer, by their form: about things
    that are there, and about things that are not.

    Of the things that are there, `rng` chooses `MOST_PRESENT` to ask whether they are.
    """
    counts = Counter(scene.thing for scene in scenes)
    kinds = Counter(scene.kind for scene in scenes)
    once = [thing for thing in counts if counts[thing] == 1]
    followed = [thing for thing in once if thing != scenes[-1].thing]
    some = rng.sample(list(counts), min(MOST_PRESENT, len(counts)))
    there = {
        "colour": [ask_colour(scenes, thing) for thing in once],
        "kind": [ask_kind(scenes, kind) for kind in kinds if kinds[kind] == 1],
        "presence": [ask_presence(scenes, thing) for thing in some],
        "next": [ask_next(scenes, thing) for thing in followed],
        "ends": [ask_first(scenes), ask_last(scenes)],
    }
    unseen = [thing for thing in THINGS if thing not in counts]
    missing = {
        "colour": [ask_colour(scenes, thing) for thing in unseen],
        "kind": [ask_kind(scenes, kind) for kind in THINGS_OF if kind not in kinds],
        "presence": [ask_presence(scenes, thing) for thing in unseen],
        "next": [ask_next(scenes, thing) for thing in unseen],
    }
    return there, missing


def _form_by_form(all_forms: Iterable[list[Exchange]], rng: random.Random) -> list[Exchange]:
    """All exchanges in random order, each of a form that is drawn evenly among those left."""
    left = [rng.sample(form, len(form)) for form in all_forms if form]
    found = []
    while left:
        form = rng.choice(left)
        found.append(form.pop())
        left = [form for form in left if form]
    return found


def _only(scenes: Sequence[Scene], wanted: Callable[[Scene], bool], name: str) -> Scene | None:
    """The one scene that is wanted, None if there is none; ValueError if there are several."""
    found = [scene for scene in scenes if wanted(scene)]
    if len(found) > 1:
        raise ValueError(f"{name} is shown {len(found)} times, want once or never: ambiguous")
    return found[0] if found else None
