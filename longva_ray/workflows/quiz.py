"""Every form of question to a model of the tiny world, about frames that were never trained on.

    checkpoint, lengths, lists a length, seed -> what was asked, what is true, what was said

V-NIAH only asks for colours. Here each list of scenes is drawn as frames and encoded like a video.
One question of each form is asked about it, if there is one with a single right answer. An answer
is right if it is the true one to the letter, its end included. One process, float32.

Shapes: F frames, Y rows, X columns, C colour channels, Q visual tokens of a frame, D width.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.lm.load import load_frame_encoder
from longva_ray.progress import Progress
from longva_ray.settings.answering import GenerationSettings
from longva_ray.tiny.drawing import draw_small
from longva_ray.tiny.world import (
    MOST_CAPTIONED,
    TOKENS_A_SCENE,
    Exchange,
    Scene,
    ask_everything,
    forms,
    needles_among_shapes,
)

_LONGEST_ANSWER = 12  # tokens, unless everything is to be told


_PREFILL_CHUNK = 160


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One question of the quiz."""

    form: str
    num_frames: int
    question: str
    true: str
    said: str

    @property
    def is_right(self) -> bool:
        return self.said == self.true


def run_quiz(checkpoint: str, *, lengths: Sequence[int], lists: int, seed: int) -> list[Asked]:
    """Ask one question of each form about `lists` lists of frames of each length.

    Raises:
        ValueError: no length, one below 1, or no lists.
    """
    if not lengths or min(lengths) < 1 or lists < 1:
        raise ValueError(
            f"want numbers of frames of at least 1 and at least 1 list of each, got {lengths} and "
            f"{lists}"
        )
    encoder = load_frame_encoder(checkpoint, dtype=torch.float32)
    engine = AnswerEngine(checkpoint, dtype="float32", prefill_chunk=_PREFILL_CHUNK)
    choices, rng = random.Random(seed), np.random.default_rng(seed)
    asked = []
    with Progress("asking", unit="lists", total=len(lengths) * lists) as progress:
        for num_frames in lengths:
            for _ in range(lists):
                scenes = needles_among_shapes(choices, num_frames)
                frames_FYXC = np.stack(
                    [draw_small(each, encoder.grid_size, rng) for each in scenes]
                )
                tokens_FQD = encoder.encode(frames_FYXC, micro_batch=16)
                for form, exchange in _one_of_each(scenes, choices):
                    said = _answer(engine, tokens_FQD, exchange, num_frames)
                    asked.append(Asked(form, num_frames, exchange.question, exchange.answer, said))
                progress.advance(1)
    return asked


def describe_quiz(asked: Sequence[Asked]) -> str:
    """Right answers by form and number of frames, as a table with how many were asked."""
    lengths = sorted({each.num_frames for each in asked})
    lines = ["".join([f"{'':18}", *(f"{length:>14}" for length in lengths)])]
    for form in dict.fromkeys(each.form for each in asked):
        cells = []
        for length in lengths:
            of_cell = [each for each in asked if (each.form, each.num_frames) == (form, length)]
            right = sum(each.is_right for each in of_cell)
            share = f"{right / len(of_cell):.2f} of {len(of_cell)}" if of_cell else "-"
            cells.append(f"{share:>14}")
        lines.append("".join([f"{form:18}", *cells]))
    return "\n".join(lines)


def _one_of_each(scenes: Sequence[Scene], rng: random.Random) -> Iterator[tuple[str, Exchange]]:
    there, missing = forms(scenes, rng)
    for form, found in there.items():
        if form == "ends":
            yield from zip(("first", "last"), found, strict=True)
        elif found:
            yield form, rng.choice(found)
    for form, found in missing.items():
        if found:
            yield f"{form}, absent", rng.choice(found)
    if len(scenes) <= MOST_CAPTIONED:
        yield "everything", ask_everything(scenes)


def _answer(
    engine: AnswerEngine, tokens_FQD: torch.Tensor, exchange: Exchange, num_frames: int
) -> str:
    content = [{"type": "video"}, {"type": "text", "text": exchange.question}]
    question = Question(messages=[{"role": "user", "content": content}], items=[tokens_FQD])
    longest = _LONGEST_ANSWER + TOKENS_A_SCENE * min(num_frames, MOST_CAPTIONED)
    settings = GenerationSettings(max_new_tokens=longest)
    pieces = engine.stream(engine.read(question), settings)
    return "".join(piece.text for piece in pieces).strip()
