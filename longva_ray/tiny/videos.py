"""Haystacks and needles: H.264 videos of any length that are free to share, and images to hide.

    a length and a seed -> a video of one scene a second, and the list of what it shows
    a seed -> needle images and `needles.json`, a list of {"image", "question", "answer"}

A haystack shows shapes only, a needle a letter or a digit, so the question has one answer. The
colour of each needle is drawn at random: a model that knows only the language, or the haystack, is
right one time in eight. Frames are drawn while the video is written; memory does not grow with its
length. Which scenes a video shows depends on nothing but its seed, and a longer video begins as a
shorter one does.

Shapes: Y rows, X columns, C colour channels.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from longva_ray.tiny.drawing import draw
from longva_ray.tiny.world import COLOURS, DIGITS, LETTERS, Scene, ask_colour, random_scene
from longva_ray.video.write import write_video

FRAME_SIDE = 224
"""Pixels: pleasant to look at, and four times what the tiny model sees."""


NEEDLES_FILE = "needles.json"


def plan_haystack(seconds: int, seed: int) -> list[Scene]:
    """What the haystack of that seed shows, second by second: shapes, any colour.

    Raises:
        ValueError: a length below one second.
    """
    if seconds < 1:
        raise ValueError(f"a haystack of {seconds} seconds; wanted at least 1")
    rng = random.Random(seed)
    return [random_scene(rng, ("shape",)) for _ in range(seconds)]


def write_haystack(
    path: str | os.PathLike[str],
    *,
    seconds: int,
    seed: int,
    size: int = FRAME_SIDE,
    hidden: Mapping[int, Scene] = MappingProxyType({}),
) -> list[Scene]:
    """Write the haystack of that seed as H.264, `size` x `size` pixels; returns what it shows.

    Args:
        hidden: by second, what is shown there instead.

    Raises:
        ValueError: a length below one second, an odd size or one below 16 pixels.
    """
    scenes = [
        hidden.get(second, scene) for second, scene in enumerate(plan_haystack(seconds, seed))
    ]
    rng = np.random.default_rng(seed)
    frames = (draw(scene, size, rng) for scene in scenes)
    write_video(path, frames, fps=1)
    return scenes


def write_needles(
    folder: str | os.PathLike[str], *, count: int, seed: int, size: int = FRAME_SIDE
) -> list[Scene]:
    """Write `count` needle images and `needles.json` into a folder; returns what they show.

    No two needles show the same thing while there are things left; every question asks for the
    colour.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} needles; wanted at least 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    choices, rng = random.Random(seed), np.random.default_rng(seed)
    scenes, entries = [], []
    for number in range(count):
        things = [*LETTERS, *DIGITS]
        if number % len(things) == 0:
            order = choices.sample(things, len(things))
        scene = Scene(choices.choice(list(COLOURS)), order[number % len(things)])
        name = f"needle-{number:03d}.png"
        Image.fromarray(draw(scene, size, rng)).save(folder / name)
        asked = ask_colour([scene], scene.thing)
        scenes.append(scene)
        entries.append({"image": name, "question": asked.question, "answer": asked.answer})
    (folder / NEEDLES_FILE).write_text(json.dumps(entries, indent=2) + "\n")
    return scenes
