"""Teach a model which of two answers is better: preference tuning (DPO, IPO) on prepared pairs.

    ray job submit --working-dir . -- python jobs/prefer.py --recipe longva_7b \\
        --shards /data/preferences --storage /data/runs --name dpo-1

Trains the language model of the LongVA checkpoint that the pairs were prepared with; its vision
tower and projector stay as they are, or learn with --prefer.train all. The model is written to
STORAGE/NAME/final. Start the job with the same --name again to continue a run that was stopped or
lost. Exit status 0 only when it is finished."""

import dataclasses
from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, check_there
from longva_ray.options import find_checkpoint, parse
from longva_ray.settings.training import PreferConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach a model which of two answers is better: preference tuning on prepared pairs."""

    shards: str
    """Preference shards (jobs/prepare_preferences.py): a folder or URI."""
    name: str
    """Name of the run: its folder below the storage, and what continues it."""
    model: str | None = None
    """LongVA checkpoint to start from, instead of the recipe's: the one that prepared the pairs, or
    with a live reference another language model with the same eyes."""
    store: str | None = None
    """Folder or URI of the embedding shards; None, where they were when the pairs were prepared."""
    storage: str = "outputs/runs"
    """Folder or URI that every worker reaches."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    prefer: PreferConfig


def main(options: Options) -> int:
    storage, shards = absolute(options.storage), absolute(options.shards)
    check_there([shards])
    base = find_checkpoint(options.model, options.recipe)
    store = None if options.store is None else absolute(options.store)
    from longva_ray.train.run.launch import train
    from longva_ray.train.stages.preference import PreferenceStage

    stage = PreferenceStage(options.prefer, base=base, shards=shards, store=store)
    stage.check_inputs()
    documents = {"recipe.json": dataclasses.asdict(options), "provenance.json": stage.provenance()}
    outcome = train(stage, options.prefer, storage=storage, name=options.name, documents=documents)
    print(outcome.describe(f"{storage}/{options.name}"))
    return 0 if outcome.status == "finished" else 1


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
