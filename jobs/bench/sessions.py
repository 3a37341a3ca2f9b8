"""How long a question about a video waits for the first token of its answer: the first one, and the
next.

    python jobs/bench/sessions.py

The engine of the server answers without HTTP, on the CPU, with longva-tiny and visual tokens drawn
at random: time does not depend on what they say. `fresh` reads the whole prompt each time; `kept`
finds the KV of the video where an earlier question left it. Both take turns, and the table shows
the median of the ratios of neighbouring runs.
"""

import dataclasses
import functools
import statistics

import torch
from timing import alternate, speedup

from longva_ray.answer.engine import AnswerEngine
from longva_ray.recipes import checkpoint_of, get_recipe
from longva_ray.settings.answering import GenerationSettings

MESSAGES = [
    {
        "role": "user",
        "content": [{"type": "video"}, {"type": "text", "text": "what colour is the K?"}],
    }
]

KINDS = ("fresh", "kept")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the time to the first token of an answer."""

    frames: tuple[int, ...] = (240, 2_000)
    """Frames of the video, 4 visual tokens each."""
    repeats: int = 9
    """Rounds of each comparison."""


def first_token(engine: AnswerEngine, tokens_FQD: torch.Tensor) -> None:
    """Read a question about a video and begin to answer it."""
    frames, each, _ = tokens_FQD.shape
    prompt_ids_T = engine.prompt_ids(MESSAGES, [frames * each])
    prompt, _ = engine.read_session(prompt_ids_T, [("video", frames)], lambda: [tokens_FQD])
    answer = engine.stream(prompt, GenerationSettings(max_new_tokens=1))
    next(answer)
    answer.close()


def measure(options: Options) -> None:
    """Print the table, line by line."""
    checkpoint = checkpoint_of(get_recipe("tiny"))
    engines = {
        kind: AnswerEngine(checkpoint, dtype="float32", session_bytes=session_bytes)
        for kind, session_bytes in zip(KINDS, (0, 2**30), strict=True)
    }
    print(
        "seconds to the first token" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'ratio':>10}"
    )
    for frames in options.frames:
        tokens_FQD = torch.randn(frames, 4, 128)
        acts = {
            kind: functools.partial(first_token, engine, tokens_FQD)
            for kind, engine in engines.items()
        }
        acts["kept"]()  # the first question
        seconds = alternate(acts, options.repeats, lambda: None)
        cells = "".join(f"{statistics.median(seconds[kind]):>12.4f}" for kind in KINDS)
        print(f"{frames:>12} frames       {cells}{speedup(seconds, *KINDS):>9.1f}x")


def main() -> None:
    import tyro

    measure(tyro.cli(Options))


if __name__ == "__main__":
    main()
