"""Turn pairs of answers into preference shards for preference tuning.

    ray job submit --working-dir . -- python jobs/prepare_preferences.py \\
        --recipe longva_7b --model lmms-lab/LongVA-7B --data /data/hound/sft_dpo_17k.jsonl \\
        --preferences.media-folder /data/hound/frames --store s3://bucket/shards \\
        --output /data/preferences

Reads JSON lines (or JSON, or mixtures of them) of {id, video or image, prompt, chosen, rejected},
where a video is a file or a folder of frames. Encodes each video once into --store, and asks the
model that will be trained how likely each answer is (--preferences.reference). Writes shards and a
report.json to --output. The report counts pairs that cannot be used, and names each with the
reason. Start it again to continue where it stopped."""

import dataclasses

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, check_there
from longva_ray.options import find_checkpoint, parse
from longva_ray.settings.data import PreferenceDataConfig
from longva_ray.settings.encoding import EncodeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Turn pairs of answers into preference shards for preference tuning."""

    data: tuple[str, ...]
    """Files and URIs: .jsonl, .json, or .yaml with `datasets: [{json_path, sampling_strategy}]`."""
    output: str = "outputs/preferences"
    """Folder or URI of the preference shards."""
    store: str = "outputs/shards"
    """Folder or URI of the embedding shards."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    model: str | None = None
    """LongVA checkpoint that will be trained, instead of the recipe's."""
    preferences: PreferenceDataConfig
    encode: EncodeConfig


def main(options: Options) -> int:
    output = absolute(options.output)
    places = [absolute(place) for place in options.data]
    check_there(places)
    checkpoint = find_checkpoint(options.model, options.recipe)
    config = options.preferences
    if config.media_folder is not None:
        config = dataclasses.replace(config, media_folder=absolute(config.media_folder))
    from longva_ray.data.preferences.pipeline import prepare_preferences
    from longva_ray.data.sample_report import REPORT_NAME, describe_report

    prepare_preferences(
        places,
        output=output,
        store=absolute(options.store),
        checkpoint=checkpoint,
        config=config,
        encode=options.encode,
    )
    print(describe_report(output, "pairs"))
    print(f"preference shards and {REPORT_NAME} are in {output}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
