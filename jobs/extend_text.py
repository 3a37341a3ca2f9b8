"""Stretch the context of a language model on text.

    ray job submit --working-dir . -- python jobs/extend_text.py --shards /data/tokens \\
        --storage /data/runs --name extend-1 --recipe longva_7b

The model is written to STORAGE/NAME/final. Start the job with the same --name again to continue a
run that was stopped or lost. Exit status 0 only when it is finished."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, check_there, is_uri
from longva_ray.options import find_base, parse
from longva_ray.settings.training import ExtendConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Stretch the context of a language model on text."""

    shards: str
    """Token shards (jobs/prepare_text.py): a folder or URI."""
    name: str
    """Name of the run: its folder below the storage, and what continues it."""
    storage: str = "outputs/runs"
    """Folder or URI that every worker reaches."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    model: str | None = None
    """Language model instead of the recipe's: a folder, a Hugging Face id, or a GGUF file. Of a
    LongVA checkpoint the language model is taken."""
    extend: ExtendConfig


def main(options: Options) -> int:
    storage, shards = absolute(options.storage), absolute(options.shards)
    check_there([shards])
    model = find_base(options.model, options.recipe)
    from longva_ray.lm.gguf import is_gguf, prepare_base
    from longva_ray.train.run.launch import train
    from longva_ray.train.stages.text import TextStage

    if is_gguf(model) and is_uri(storage):
        raise ValueError(
            "a GGUF file is converted into a folder of the storage; give --storage a path, not a "
            "URI"
        )
    base = prepare_base(model, Path(storage) / options.name / "base")
    stage = TextStage(options.extend, base=base, shards=shards)
    stage.check_inputs()
    documents = {"recipe.json": dataclasses.asdict(options), "provenance.json": stage.provenance()}
    outcome = train(stage, options.extend, storage=storage, name=options.name, documents=documents)
    print(outcome.describe(f"{storage}/{options.name}"))
    return 0 if outcome.status == "finished" else 1


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
