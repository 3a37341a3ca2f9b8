"""The text that longva-tiny learns from: recitals, lists, numbers, essays, chats; any amount.

    seed, sizes -> documents {"text", "domain", "labels"} as JSONL, essays as a folder of text files

    recitals  random words, then short spans of them again from random places
    figures   the same with the pieces of numbers among the words
    lists     described scenes, then the same things again, each with its colour
    numbers   magic numbers of cities among plain sentences, then each again
    essays    the same, asked for in words at the end (Appendix A of the paper)
    chats     a list of described scenes and questions about it, in the chat template: what the
              model is later asked about videos

Only what can be known is a label (`labels`: character spans), so that no step is spent on learning
what cannot. Recitals teach a small model to look back at all: long spans from a short beginning, so
that most tokens can be known. Lists and numbers, where most labels are of one kind, teach it to
look back sharply among many things that look alike; chats alone, with one such label in twenty,
stayed on their plateau. Captions name the thing first ("a K red.") because what follows must be
found by what precedes it.

Sizes count tokens of the tiny tokenizer. Does not pack or tokenise: `jobs/prepare_text.py` does.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from longva_ray.lm.prompt import CHAT_TEMPLATE, TURN_END, TURN_START
from longva_ray.tiny.tokenizer import (
    CITIES,
    DEEDS,
    ESSAY_WORDS,
    MANNERS,
    PAIRS,
    PEOPLE,
    PLACES,
    PREPOSITIONS,
    SCENE_WORDS,
    tiny_tokenizer,
)
from longva_ray.tiny.world import (
    COLOURS,
    DIGITS,
    LETTERS,
    MOST_CAPTIONED,
    SHAPES,
    THINGS,
    TOKENS_A_SCENE,
    Exchange,
    Scene,
    ask_several,
    random_scene,
)

NUMBER_DIGITS = 7


SHORTEST = 48


_SYSTEM_TOKENS = 16  # the system turn and the start of the user's


_EXCHANGE_TOKENS = 22  # the longest question and answer with their turns


_NUMBER_TOKENS = 11  # a needle


_QUESTION_TOKENS = 24  # the question of an essay and its answer


_SENTENCE_TOKENS = 10


_WORDS = tuple(f" {word}" for word in (*SCENE_WORDS, *ESSAY_WORDS, *CITIES))


_FIGURES = (*(f" {pair}" for pair in PAIRS), *PAIRS)


_SMALLEST_POOL = 64


Span = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """How much of what."""

    num_tokens: int
    """About how many tokens in all documents together."""
    shortest: int
    longest: int
    """Tokens of a document: spread evenly over the logarithm between the two."""
    shares: tuple[tuple[str, float], ...]
    """Domains and their shares of the documents."""

    def __post_init__(self) -> None:
        if not SHORTEST <= self.shortest <= self.longest:
            raise ValueError(
                f"want {SHORTEST} <= shortest <= longest tokens, got {self.shortest} and "
                f"{self.longest}"
            )
        unknown = [name for name, _ in self.shares if name not in _WRITERS]
        if unknown or not math.isclose(sum(share for _, share in self.shares), 1.0):
            raise ValueError(
                f"want shares of {', '.join(_WRITERS)} that add up to 1, got {dict(self.shares)}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    text: str
    labels: tuple[Span, ...]
    """Characters [start, stop) that are trained on."""
    domain: str


def documents(corpus: Corpus, seed: int) -> Iterator[Document]:
    """The documents of a corpus, domains mixed; the same for the same seed."""
    rng = random.Random(seed)
    tokenizer = tiny_tokenizer()
    names, weights = zip(*corpus.shares, strict=True)
    written = 0
    while written < corpus.num_tokens:
        domain = rng.choices(names, weights)[0]
        low, high = math.log(corpus.shortest), math.log(corpus.longest)
        budget = round(math.exp(rng.uniform(low, high)))
        draft = _Draft()
        _WRITERS[domain](draft, rng, budget)
        written += len(tokenizer.encode(draft.text))
        yield Document(draft.text, tuple(draft.labels), domain)


def write_corpus(corpus: Corpus, seed: int, path: str | Path) -> None:
    """Write the documents as JSON lines with the keys `text`, `labels` and `domain`."""
    with Path(path).open("w") as file:
        for document in documents(corpus, seed):
            file.write(json.dumps(dataclasses.asdict(document)) + "\n")


def write_essays(folder: str | Path, seed: int, *, num_essays: int, num_sentences: int) -> None:
    """Write essays without needles, `essay-000.txt` and so on: haystacks of the text NIAH."""
    rng = random.Random(seed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(num_essays):
        essay = " ".join(_sentences(rng, num_sentences))
        (Path(folder) / f"essay-{number:03d}.txt").write_text(essay + "\n")


def conversation(tokenizer: PreTrainedTokenizerBase, told: str, asked: Sequence[Exchange]) -> str:
    """A list of scenes and questions about it in the chat template, as if the list were a video."""
    messages = []
    for number, exchange in enumerate(asked):
        shown = f"{told}\n" if number == 0 else ""
        messages.append({"role": "user", "content": shown + exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    return str(tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False))


def needle(city: str, number: str) -> str:
    """The hidden sentence of Appendix A."""
    return f"The magic number of {city} is {number}."


def most_exchanges(budget: int, num_scenes: int) -> int:
    """Questions about so many scenes that fit into `budget` tokens, at least 1; few scenes may be
    told twice, the second time in an answer."""
    tellings = 2 if num_scenes <= MOST_CAPTIONED else 1
    left = budget - _SYSTEM_TOKENS - tellings * TOKENS_A_SCENE * num_scenes
    return max(1, left // _EXCHANGE_TOKENS)


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


def _as_caption(scene: Scene) -> str:
    return f" {scene}"


def _as_frame(scene: Scene) -> str:
    """As the places of a frame tell it; see `tiny.tower`."""
    return f" {scene.thing} {scene.colour}" * 2


_TELLINGS = (_as_caption, _as_frame)
"""How all scenes of a document are told. Both begin with a space, because not every word is a token
without one."""


class _Draft:
    """A text in the making, and which of its characters are labels."""

    def __init__(self) -> None:
        self.text = ""
        self.labels: list[Span] = []

    def add(self, text: str, *, label: bool = False) -> None:
        if label:
            self.labels.append((len(self.text), len(self.text) + len(text)))
        self.text += text


def _write_recital(
    draft: _Draft, rng: random.Random, budget: int, words: Sequence[str] = _WORDS
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


def _write_figures(draft: _Draft, rng: random.Random, budget: int) -> None:
    """A recital with the pieces of numbers among the words."""
    _write_recital(draft, rng, budget, _WORDS + _FIGURES)


def _write_list(draft: _Draft, rng: random.Random, budget: int) -> None:
    """Scenes, some of whose things occur once; then those again and again in random order."""
    num_scenes = rng.randint(2, max(2, budget // (2 * TOKENS_A_SCENE)))
    once = [
        Scene(rng.choice(list(COLOURS)), thing)
        for thing in rng.sample(THINGS, rng.randint(1, min(num_scenes, len(THINGS) - 1)))
    ]
    others = [thing for thing in THINGS if all(thing != scene.thing for scene in once)]
    others = [thing for thing in others if thing in SHAPES] or others
    scenes = list(once)
    while len(scenes) < num_scenes:
        scenes.append(Scene(rng.choice(list(COLOURS)), rng.choice(others)))
    rng.shuffle(scenes)
    telling = rng.choice(_TELLINGS)
    draft.add("".join(map(telling, scenes)))
    length = TOKENS_A_SCENE * num_scenes
    while length + TOKENS_A_SCENE <= budget:
        scene = rng.choice(once)
        before, behind = telling(scene).split(f" {scene.colour}", 1)
        draft.add(before)
        draft.add(f" {scene.colour}", label=True)
        draft.add(behind)
        length += TOKENS_A_SCENE


def _write_numbers(draft: _Draft, rng: random.Random, budget: int) -> None:
    pairs = _hide_numbers(draft, rng, budget, per_number=2 * _NUMBER_TOKENS)
    for city, number in pairs:
        before, after = needle(city, number).split(number)
        draft.add(f" {before}")
        draft.add(number, label=True)
        draft.add(after)


def _write_essay(draft: _Draft, rng: random.Random, budget: int) -> None:
    pairs = _hide_numbers(draft, rng, budget, per_number=_NUMBER_TOKENS + _QUESTION_TOKENS)
    for city, number in pairs:
        draft.add(f"Question: What is the magic number of {city}? Answer:")
        draft.add(f" {needle(city, number)}", label=True)
        draft.add("\n")


def _hide_numbers(
    draft: _Draft, rng: random.Random, budget: int, *, per_number: int
) -> list[tuple[str, str]]:
    """Write sentences with magic numbers among them; cities and numbers in random order."""
    most = max(1, min(6, (budget - 2) // per_number))
    cities = rng.sample(CITIES, rng.randint(1, most))
    pairs = [(city, "".join(rng.choices("0123456789", k=NUMBER_DIGITS))) for city in cities]
    room = (budget - 2 - len(pairs) * per_number) // _SENTENCE_TOKENS
    sentences = _sentences(rng, rng.randint(0, max(0, room)))
    for pair in pairs:
        sentences.insert(rng.randint(0, len(sentences)), needle(*pair))
    draft.add(" ".join(sentences) + "\n")
    rng.shuffle(pairs)
    return pairs


def _write_chat(draft: _Draft, rng: random.Random, budget: int) -> None:
    """Lists of more scenes than there are things show letters and digits among shapes, for of
    random ones hardly a question would have one answer; so do half of the others.

    Half are as long as they can be with one to four questions: that is what a video is like. The
    others are of any length, evenly over its logarithm, since a short list is more often asked
    about as a whole.
    """
    if rng.random() < 0.5:
        most = rng.randint(1, 4)
        room = budget - _SYSTEM_TOKENS - most * _EXCHANGE_TOKENS
        num_scenes = max(2, room // TOKENS_A_SCENE)
    else:
        longest = (budget - _SYSTEM_TOKENS - _EXCHANGE_TOKENS) // TOKENS_A_SCENE
        num_scenes = round(math.exp(rng.uniform(0, math.log(max(2, longest)))))
        most = most_exchanges(budget, num_scenes)
    if num_scenes <= len(THINGS) and rng.random() < 0.5:
        scenes = [random_scene(rng) for _ in range(num_scenes)]
    else:
        scenes = needles_among_shapes(rng, num_scenes)
    asked = ask_several(scenes, rng, most=most)
    telling = rng.choice(_TELLINGS)
    told = "".join(map(telling, scenes))
    text = conversation(tiny_tokenizer(), told, asked)
    begin, end = f"{TURN_START}assistant\n", TURN_END
    for place, piece in enumerate(text.split(begin)):
        if place == 0:
            draft.add(piece)
            continue
        draft.add(begin)
        answer, rest = piece.split(end, 1)
        draft.add(answer + end, label=True)
        draft.add(rest)


_WRITERS: dict[str, Callable[[_Draft, random.Random, int], None]] = {
    "recitals": _write_recital,
    "figures": _write_figures,
    "lists": _write_list,
    "numbers": _write_numbers,
    "essays": _write_essay,
    "chats": _write_chat,
}


def _sentences(rng: random.Random, count: int) -> list[str]:
    """Sentences of the tiny language."""
    return [
        f"The {rng.choice(MANNERS)} {rng.choice(PEOPLE)} {rng.choice(DEEDS)} "
        f"the {rng.choice(PLACES)} {rng.choice(PREPOSITIONS)} the {rng.choice(PLACES)}."
        for _ in range(count)
    ]
