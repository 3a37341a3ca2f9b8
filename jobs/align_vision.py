"""Teach a language model to see: one of the two stages of vision alignment.

    ray job submit --working-dir . -- python jobs/align_vision.py --stage projector \\
        --recipe longva_7b --model /data/longva-base --shards /data/captions \\
        --storage /data/runs --name align-1
    ray job submit --working-dir . -- python jobs/align_vision.py --stage all \\
        --recipe longva_7b --model /data/runs/align-1/final --shards /data/vision \\
        --storage /data/runs --name align-2

Stage 1 trains the projector, stage 2 everything. The model is written to STORAGE/NAME/final. Start
the job with the same --name again to continue a run that was stopped or lost. Exit status 0 only
when it is finished."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, check_there, model_place
from longva_ray.options import parse
from longva_ray.recipes import get_recipe
from longva_ray.settings.training import AlignConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach a language model to see: one of the two stages of vision alignment."""

    model: str
    """LongVA checkpoint to start from: language model and vision tower, joined, or the result of
    the stage before."""
    shards: str
    """Vision shards (jobs/prepare_images.py): a folder or URI."""
    name: str
    """Name of the run: its folder below the storage, and what continues it."""
    stage: Literal["projector", "all"]
    """Which of the recipe's two stages: its settings are --align-projector.* or --align.*"""
    storage: str = "outputs/runs"
    """Folder or URI that every worker reaches."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    align_projector: AlignConfig
    align: AlignConfig


def main(options: Options) -> int:
    storage, shards = absolute(options.storage), absolute(options.shards)
    check_there([shards])
    base = model_place(options.model)
    config = chosen_config(options)
    from longva_ray.train.run.launch import train
    from longva_ray.train.stages.alignment import AlignmentStage

    stage = AlignmentStage(config, base=base, shards=shards)
    stage.check_inputs()
    documents = {"recipe.json": dataclasses.asdict(options), "provenance.json": stage.provenance()}
    outcome = train(stage, config, storage=storage, name=options.name, documents=documents)
    print(outcome.describe(f"{storage}/{options.name}"))
    return 0 if outcome.status == "finished" else 1


def chosen_config(options: Options) -> AlignConfig:
    """Settings of the stage that runs; ValueError for settings of the other one, which would be
    ignored."""
    recipe = get_recipe(options.recipe)
    if options.stage == "projector":
        if options.align != recipe.align:
            raise ValueError("--align.* is not for --stage projector; use --align-projector.*")
        return options.align_projector
    if options.align_projector != recipe.align_projector:
        raise ValueError("--align-projector.* is not for --stage all; use --align.*")
    return options.align


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
