"""Pairs of answers about videos of the tiny world: the data of preference tuning.

    count, seed -> <folder>/0.mp4 ... and <folder>/pairs.jsonl

Each video is a short haystack with a few letters hidden in it, and the question asks for the colour
of one. There are two preferences. "colour" prefers the right colour to another one, which is what
the model knows already. "short" prefers the colour alone to the sentence that the model would say,
which is new to it. `pairs.jsonl` has the form of LLaVA-Hound's data.
"""

import json
import os
import random
from pathlib import Path
from typing import Literal, get_args

from longva_ray.tiny.videos import write_haystack
from longva_ray.tiny.world import COLOURS, LETTERS, Scene, ask_colour

PAIRS_FILE = "pairs.jsonl"

Preference = Literal["colour", "short"]

LETTERS_A_VIDEO = 4

SECONDS = 14


def write_pairs(
    folder: str | os.PathLike[str], *, videos: int, seed: int, preference: Preference
) -> None:
    """Write so many videos, and `LETTERS_A_VIDEO` pairs about each.

    Raises ValueError for an unknown preference, or no videos.
    """
    if preference not in get_args(Preference) or videos < 1:
        raise ValueError(
            f"preference {preference!r} about {videos} video(s); wanted one of "
            f"{', '.join(get_args(Preference))}, and at least 1 video"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(seed), []
    for number in range(videos):
        shown = [
            Scene(rng.choice(list(COLOURS)), thing)
            for thing in rng.sample(LETTERS, LETTERS_A_VIDEO)
        ]
        hidden = {2 + 3 * place: scene for place, scene in enumerate(shown)}
        name = f"{number}.mp4"
        scenes = write_haystack(folder / name, seconds=SECONDS, seed=seed + number, hidden=hidden)
        for scene in shown:
            asked = ask_colour(scenes, scene.thing)
            other = rng.choice([colour for colour in COLOURS if colour != scene.colour])
            wrong = ask_colour([Scene(other, scene.thing)], scene.thing).answer
            short = preference == "short"
            pair = {
                "id": f"{number}-{scene.thing}",
                "video": name,
                "prompt": asked.question,
                "chosen": f"{scene.colour}." if short else asked.answer,
                "rejected": asked.answer if short else wrong,
            }
            lines.append(json.dumps(pair) + "\n")
    (folder / PAIRS_FILE).write_text("".join(lines))
