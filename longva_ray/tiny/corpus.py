"""The text that longva-tiny learns from: any amount, from a seed.

    seed, sizes -> documents {"text", "domain", "labels"} as JSON lines

    recitals, figures   random words, then spans of them again          (`tiny.recitals`)
    lists, chats        described scenes, then questions about them     (`tiny.told_scenes`)
    numbers, essays     magic numbers of cities among sentences         (`tiny.essays`)

Only what can be known is a label (`labels`: character spans). Captions name the thing first ("a K
red."), because what follows must be found by what precedes it.

Sizes count tokens of the tiny tokenizer. Does not pack or tokenise: `jobs/prepare_text.py` does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from longva_ray.tiny.corpus_plan import CorpusPlan
from longva_ray.tiny.draft import Draft, Span
from longva_ray.tiny.essays import write_essay, write_numbers
from longva_ray.tiny.recitals import write_figures, write_recital
from longva_ray.tiny.tokenizer import tiny_tokenizer
from longva_ray.tiny.told_scenes import write_chat, write_list

_WRITERS: dict[str, Callable[[Draft, random.Random, int], None]] = {
    "recitals": write_recital,
    "figures": write_figures,
    "lists": write_list,
    "numbers": write_numbers,
    "essays": write_essay,
    "chats": write_chat,
}


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledText:
    """A document of the tiny corpus."""

    text: str
    labels: tuple[Span, ...]
    """Characters [start, stop) that are trained on."""
    domain: str


def documents(corpus: CorpusPlan, seed: int) -> Iterator[LabelledText]:
    """The documents of a corpus, domains mixed; the same for the same seed."""
    rng = random.Random(seed)
    tokenizer = tiny_tokenizer()
    names, weights = zip(*corpus.shares, strict=True)
    written = 0
    while written < corpus.num_tokens:
        domain = rng.choices(names, weights)[0]
        low, high = math.log(corpus.shortest), math.log(corpus.longest)
        budget = round(math.exp(rng.uniform(low, high)))
        draft = Draft()
        _WRITERS[domain](draft, rng, budget)
        written += len(tokenizer.encode(draft.text))
        yield LabelledText(draft.text, tuple(draft.labels), domain)


def write_corpus(corpus: CorpusPlan, seed: int, path: str | Path) -> None:
    """Write the documents as JSON lines with the keys `text`, `labels` and `domain`."""
    with Path(path).open("w") as file:
        for document in documents(corpus, seed):
            file.write(json.dumps(dataclasses.asdict(document)) + "\n")
