"""Images of the tiny world with conversations about them: the data of vision alignment.

    count, seed -> <folder>/images/*.jpg and <folder>/samples.json

`samples.json` has the form of LLaVA's data: a list of {"id", "image", "conversations"} with turns
{"from": "human" | "gpt", "value"}. An image is a table of square cells, a scene in each; UniRes
cuts it into just these cells, row by row, so that an image of n cells looks to the language model
like a video of n frames. Captions say what all cells show. Conversations ask about single things,
some of which are not there, and some are told their scenes in words. The pictures are JPEGs: the
noise of lossy coding belongs to the task.

Shapes: G cells (grids), Y rows, X columns, C colour channels.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longva_ray.files.folder import write_once
from longva_ray.lm.prompt import IMAGE_PLACEHOLDER
from longva_ray.progress import Progress
from longva_ray.tiny.curriculum import PRETRAINED_TOKENS
from longva_ray.tiny.drawing import Frame, draw_small
from longva_ray.tiny.image_sets import ImageSet
from longva_ray.tiny.told_scenes import most_exchanges
from longva_ray.tiny.world import (
    Exchange,
    Scene,
    ask_everything,
    ask_several,
    describe,
    needles_among_shapes,
    random_scene,
)

SAMPLES_FILE = "samples.json"


JPEG_QUALITY = 92


MOST_EXCHANGES = 3
"""Questions about an image."""


def write_captions(images: ImageSet, *, seed: int, folder: str | os.PathLike[str]) -> None:
    """Write images and, for each, one exchange that tells everything it shows."""
    _write(images, seed, Path(folder), lambda scenes, rng: [ask_everything(scenes)])


def write_conversations(images: ImageSet, *, seed: int, folder: str | os.PathLike[str]) -> None:
    """Write images and, for each, a conversation of several questions."""

    def asked(scenes: Sequence[Scene], rng: random.Random) -> list[Exchange]:
        # A conversation longer than what the language model was pretrained on would stretch its
        # context, extended or not.
        most = min(MOST_EXCHANGES, most_exchanges(PRETRAINED_TOKENS, len(scenes)))
        return ask_several(scenes, rng, most=most)

    _write(images, seed, Path(folder), asked)


def draw_table(
    scenes: Sequence[Scene], *, columns: int, cell: int, rng: np.random.Generator
) -> Frame:
    """The scenes row by row in a table of square cells: Y X C.

    Raises:
        ValueError: the scenes do not fill whole rows.
    """
    if not scenes or len(scenes) % columns:
        raise ValueError(f"{len(scenes)} scenes do not fill rows of {columns} cells")
    cells_GYXC = np.stack([draw_small(scene, cell, rng) for scene in scenes])
    rows = len(scenes) // columns
    table = cells_GYXC.reshape(rows, columns, cell, cell, 3).swapaxes(1, 2)
    return np.ascontiguousarray(table).reshape(rows * cell, columns * cell, 3)


def _write(
    images: ImageSet,
    seed: int,
    folder: Path,
    ask: Callable[[Sequence[Scene], random.Random], list[Exchange]],
) -> None:
    choices, rng = random.Random(seed), np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    digits = len(str(images.count - 1))
    samples = []
    with Progress("drawing images", unit="images", total=images.count) as progress:
        for number in range(images.count):
            scenes = _choose_scenes(choices.choice(images.grids), choices)
            columns = choices.choice(_divisors(len(scenes)))
            table_YXC = draw_table(scenes, columns=columns, cell=images.cell, rng=rng)
            name = f"images/{number:0{digits}d}.jpg"
            Image.fromarray(table_YXC).save(folder / name, quality=JPEG_QUALITY, subsampling=0)
            sample = _sample(f"{folder.name}-{number}", IMAGE_PLACEHOLDER, ask(scenes, choices))
            samples.append(sample | {"image": name})
            progress.advance(1)
    for number in range(round(images.count * images.in_words)):
        scenes = _choose_scenes(choices.choice(images.grids), choices)
        name = f"{folder.name}-in-words-{number}"
        samples.append(_sample(name, describe(scenes), ask(scenes, choices)))
    write_once(folder / SAMPLES_FILE, lambda path: path.write_text(json.dumps(samples) + "\n"))


def _choose_scenes(count: int, rng: random.Random) -> list[Scene]:
    """Half of the images show anything, half of them letters and digits among shapes."""
    if rng.random() < 0.5:
        return [random_scene(rng) for _ in range(count)]
    return needles_among_shapes(rng, count)


def _divisors(count: int) -> list[int]:
    """Numbers of columns that make full rows, none more than four times as long as the other
    side: a thinner image would not be a table."""
    return [
        columns
        for columns in range(1, count + 1)
        if count % columns == 0 and 0.25 <= columns / (count // columns) <= 4
    ] or [count]


def _sample(name: str, shown: str, asked: Sequence[Exchange]) -> dict[str, Any]:
    conversation = []
    for number, exchange in enumerate(asked):
        before = f"{shown}\n" if number == 0 else ""
        conversation.append({"from": "human", "value": before + exchange.question})
        conversation.append({"from": "gpt", "value": exchange.answer})
    return {"id": name, "conversations": conversation}
