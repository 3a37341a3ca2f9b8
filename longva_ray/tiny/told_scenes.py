"""Scenes told in words: lists of them, and chats about them.

    lists  described scenes, then the same things again, each with its colour
    chats  a list of described scenes and questions about it, in the chat template: what the model
           is later asked about videos

A list of described scenes is to the language model what a video is after alignment. Lists, where
most labels are of one kind, teach a model to look back sharply among many things that look alike.
Chats alone, with one such label in twenty, stayed on their plateau.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from longva_ray.lm.prompt import CHAT_TEMPLATE, TURN_END, TURN_START
from longva_ray.tiny.draft import Draft
from longva_ray.tiny.tokenizer import tiny_tokenizer
from longva_ray.tiny.world import (
    COLOURS,
    MOST_CAPTIONED,
    SHAPES,
    THINGS,
    TOKENS_A_SCENE,
    Exchange,
    Scene,
    ask_several,
    needles_among_shapes,
    random_scene,
)

_SYSTEM_TOKENS = 16  # the system turn and the start of the user's

_EXCHANGE_TOKENS = 22  # the longest question and answer with their turns


def conversation(tokenizer: PreTrainedTokenizerBase, told: str, asked: Sequence[Exchange]) -> str:
    """A list of scenes and questions about it in the chat template, as if the list were a video."""
    messages = []
    for number, exchange in enumerate(asked):
        shown = f"{told}\n" if number == 0 else ""
        messages.append({"role": "user", "content": shown + exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    return str(tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATE, tokenize=False))


def most_exchanges(budget: int, num_scenes: int) -> int:
    """Questions about so many scenes that fit into `budget` tokens, at least 1; few scenes may be
    told twice, the second time in an answer."""
    tellings = 2 if num_scenes <= MOST_CAPTIONED else 1
    left = budget - _SYSTEM_TOKENS - tellings * TOKENS_A_SCENE * num_scenes
    return max(1, left // _EXCHANGE_TOKENS)


def _as_caption(scene: Scene) -> str:
    return f" {scene}"


def _as_frame(scene: Scene) -> str:
    """As the places of a frame tell it; see `tiny.tower`."""
    return f" {scene.thing} {scene.colour}" * 2


_TELLINGS = (_as_caption, _as_frame)
"""How all scenes of a document are told. Both begin with a space, because not every word is a token
without one."""


def write_list(draft: Draft, rng: random.Random, budget: int) -> None:
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
        before, after = telling(scene).split(f" {scene.colour}", 1)
        draft.add(before)
        draft.add(f" {scene.colour}", label=True)
        draft.add(after)
        length += TOKENS_A_SCENE


def write_chat(draft: Draft, rng: random.Random, budget: int) -> None:
    """Lists of more scenes than there are things show letters and digits among shapes, because
    a random list leaves hardly a question with one answer. So do half of the others.

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
