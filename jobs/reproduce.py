"""Make longva-tiny from nothing and test it: every stage of the paper in miniature, by one command.

    python jobs/reproduce.py --out outputs/reproduce

Text, pretraining, extension and the needle test in text; a vision tower; alignment of three models;
the needle test in video. Takes about 70 minutes on two cores. Start it again to continue where it
stopped. Everything it makes is in --out."""

import time
from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.files.places import local_path
from longva_ray.options import parse
from longva_ray.recipes import get_recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make longva-tiny from nothing and test it."""

    out: str = "outputs/reproduce"
    """Folder for data, shards, runs, models and results. What is there is not made again."""
    seed: int = 0
    """Seed of texts, images, tower and projector."""


def main(options: Options) -> int:
    from longva_ray.workflows.reproduce import Reproduction

    out = local_path(options.out)
    started = time.perf_counter()
    Reproduction(out, get_recipe("tiny"), options.seed).make_all()
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes; everything is in {out}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
