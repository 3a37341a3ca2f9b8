"""Questions about videos of the tiny world as files, for programs that read videos themselves.

    a seed -> videos, questions.jsonl (choices), vniah.jsonl (needles at depths)

Both files have the form of `evaluate/questions/records`. A needle stands in the place of one frame;
nothing else in its video shows a letter or a digit.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_ray.tiny.videos import write_haystack
from longva_ray.tiny.world import COLOURS, LETTERS, Scene, ask_colour

FRAMES = (16, 32, 64)

DEPTHS = (0.0, 0.5, 1.0)

NUM_OPTIONS = 4


def write_local_tasks(
    folder: Path, *, seed: int, frames: Sequence[int] = FRAMES, depths: Sequence[float] = DEPTHS
) -> None:
    """A video for each length and depth, at one frame a second, with one letter hidden in it; what
    its colour is, as a choice and as an open question."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    choices, needles = [], []
    for number, (count, depth) in enumerate((n, depth) for n in frames for depth in depths):
        needle = Scene(rng.choice(list(COLOURS)), rng.choice(LETTERS))
        path = folder / f"{count}-frames-{depth:g}.mp4"
        hidden = {round(depth * (count - 1)): needle}
        write_haystack(path, seconds=count, seed=seed + number, hidden=hidden)
        asked = ask_colour([needle], needle.thing)
        about = {"video": str(path.absolute()), "question": asked.question}
        where = {"frames": count, "depth": depth}
        needles.append({"id": f"needle-{number}", **about, "answer": asked.answer, **where})
        choices.append({"id": f"choice-{number}", **about, **_options(needle, rng), **where})
    for name, rows in (("questions.jsonl", choices), ("vniah.jsonl", needles)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / name).write_text("".join(lines))


def _options(needle: Scene, rng: random.Random) -> dict[str, Any]:
    """Answers for some colours, the true one among them."""
    others = rng.sample([colour for colour in COLOURS if colour != needle.colour], NUM_OPTIONS - 1)
    scenes = [needle, *(Scene(colour, needle.thing) for colour in others)]
    texts = [ask_colour([scene], needle.thing).answer for scene in scenes]
    right = texts[0]
    rng.shuffle(texts)
    return {"options": texts, "answer": "ABCD"[texts.index(right)]}
