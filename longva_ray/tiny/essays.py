"""Sentences of the tiny language, with the magic numbers of cities hidden among them.

seed -> essays as a folder of text files: haystacks of the needle test in text
numbers  sentences with magic numbers, then each number again
essays   the same, asked for in words at the end (Appendix A of the paper)
"""

from __future__ import annotations

import random
from pathlib import Path

from longva_ray.tiny.draft import Draft
from longva_ray.tiny.words import CITIES, DEEDS, MANNERS, PEOPLE, PLACES, PREPOSITIONS

_NUMBER_DIGITS = 7

_NUMBER_TOKENS = 11  # a needle

_QUESTION_TOKENS = 24  # the question of an essay and its answer

_SENTENCE_TOKENS = 10


def write_essays(
    folder: str | Path, seed: int, *, num_essays: int = 4, num_sentences: int = 200
) -> None:
    """Write essays without needles, `essay-000.txt` and so on: haystacks of the text NIAH."""
    rng = random.Random(seed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(num_essays):
        essay = " ".join(_sentences(rng, num_sentences))
        (Path(folder) / f"essay-{number:03d}.txt").write_text(essay + "\n")


def needle(city: str, number: str) -> str:
    """The hidden sentence of Appendix A."""
    return f"The magic number of {city} is {number}."


def write_numbers(draft: Draft, rng: random.Random, budget: int) -> None:
    pairs = _hide_numbers(draft, rng, budget, per_number=2 * _NUMBER_TOKENS)
    for city, number in pairs:
        before, after = needle(city, number).split(number)
        draft.add(f" {before}")
        draft.add(number, label=True)
        draft.add(after)


def write_essay(draft: Draft, rng: random.Random, budget: int) -> None:
    pairs = _hide_numbers(draft, rng, budget, per_number=_NUMBER_TOKENS + _QUESTION_TOKENS)
    for city, number in pairs:
        draft.add(f"Question: What is the magic number of {city}? Answer:")
        draft.add(f" {needle(city, number)}", label=True)
        draft.add("\n")


def _hide_numbers(
    draft: Draft, rng: random.Random, budget: int, *, per_number: int
) -> list[tuple[str, str]]:
    """Write sentences with magic numbers among them; cities and numbers in random order."""
    most = max(1, min(6, (budget - 2) // per_number))
    cities = rng.sample(CITIES, rng.randint(1, most))
    pairs = [(city, "".join(rng.choices("0123456789", k=_NUMBER_DIGITS))) for city in cities]
    room = (budget - 2 - len(pairs) * per_number) // _SENTENCE_TOKENS
    sentences = _sentences(rng, rng.randint(0, max(0, room)))
    for pair in pairs:
        sentences.insert(rng.randint(0, len(sentences)), needle(*pair))
    draft.add(" ".join(sentences) + "\n")
    rng.shuffle(pairs)
    return pairs


def _sentences(rng: random.Random, count: int) -> list[str]:
    """Sentences of the tiny language."""
    return [
        f"The {rng.choice(MANNERS)} {rng.choice(PEOPLE)} {rng.choice(DEEDS)} "
        f"the {rng.choice(PLACES)} {rng.choice(PREPOSITIONS)} the {rng.choice(PLACES)}."
        for _ in range(count)
    ]
