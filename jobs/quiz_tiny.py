"""Ask longva-tiny every form of question that there is in its world.

    python jobs/quiz_tiny.py --frames 3 24 240

Prints a table of right answers by form and number of frames. Writes every question, with the true
answer and the given one, to --out. Runs in one process, in minutes.
"""

import dataclasses
import json
from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.files.places import local_path
from longva_ray.options import find_checkpoint, parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Ask a model of the tiny world every form of question."""

    model: str | None = None
    """LongVA checkpoint instead of longva-tiny."""
    frames: tuple[int, ...] = (3, 8, 24, 64, 128, 240)
    """Numbers of frames."""
    lists: int = 24
    """Lists of frames of each length."""
    seed: int = 3000
    """Seed of the lists and their pictures."""
    out: str = "outputs/quiz.json"
    """File for every question and answer."""


def main(options: Options) -> int:
    from longva_ray.workflows.quiz import describe_quiz, run_quiz

    out = local_path(options.out)
    checkpoint = find_checkpoint(options.model, "tiny")
    asked = run_quiz(checkpoint, lengths=options.frames, lists=options.lists, seed=options.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([dataclasses.asdict(each) for each in asked], indent=2) + "\n")
    print(describe_quiz(asked))
    print(f"every question and answer: {out}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
