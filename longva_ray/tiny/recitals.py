"""Recitals and figures: random words, then short spans of them again from random places.

They teach a small model to look back at all. The spans are long and the beginning is short, so that
most tokens can be known. Figures have the pieces of numbers among the words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from longva_ray.tiny.draft import Draft
from longva_ray.tiny.words import CITIES, ESSAY_WORDS, PAIRS, SCENE_WORDS

_WORDS = tuple(f" {word}" for word in (*SCENE_WORDS, *ESSAY_WORDS, *CITIES))

_FIGURES = (*(f" {pair}" for pair in PAIRS), *PAIRS)

_SMALLEST_POOL = 64


def write_recital(
    draft: Draft, rng: random.Random, budget: int, words: Sequence[str] = _WORDS
) -> None:
    """Spans of 3 to 20 words; the first word of a span cannot be known, the others can.

    From a smaller pool the words would repeat by chance, and what follows a word not be certain.
    """
    pool = rng.sample(words, rng.randint(_SMALLEST_POOL, len(words)))
    first = rng.choices(pool, k=rng.randint(10, max(10, budget // rng.choice((2, 4)))))
    for word in first:
        draft.add(word)
    length = len(first)
    while length < budget:
        size = min(rng.randint(3, 20), budget - length)
        start = rng.randrange(max(1, len(first) - 3))
        span = first[start : start + size]
        for place, word in enumerate(span):
            draft.add(word, label=place > 0)
        length += len(span)


def write_figures(draft: Draft, rng: random.Random, budget: int) -> None:
    """A recital with the pieces of numbers among the words."""
    write_recital(draft, rng, budget, _WORDS + _FIGURES)
