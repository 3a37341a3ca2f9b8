"""Turn images and conversations into vision shards for the alignment.

    ray job submit --working-dir . -- python jobs/prepare_images.py \\
        --recipe longva_7b --model /data/longva-base --data /data/llava/mixture.yaml \\
        --output /data/vision-32k

Reads LLaVA's JSON and JSON lines, and YAML mixtures of them. Writes the shards and a report.json to
--output. The report counts samples that cannot be used, and names each with the reason. Start it
again to continue where it stopped."""

import dataclasses

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, check_there
from longva_ray.options import find_checkpoint, parse
from longva_ray.settings.data import ImageDataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Turn images and conversations into vision shards for the alignment."""

    data: tuple[str, ...]
    """Files and URIs: .json, .jsonl, or .yaml with `datasets: [{json_path, sampling_strategy}]`."""
    output: str = "outputs/vision"
    """Folder or URI of the vision shards."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    model: str | None = None
    """LongVA checkpoint that will be trained, instead of the recipe's."""
    images: ImageDataConfig


def main(options: Options) -> int:
    output = absolute(options.output)
    places = [absolute(place) for place in options.data]
    check_there(places)
    checkpoint = find_checkpoint(options.model, options.recipe)
    images = options.images
    if images.image_folder is not None:
        images = dataclasses.replace(images, image_folder=absolute(images.image_folder))
    from longva_ray.data.images.pipeline import prepare_images
    from longva_ray.data.sample_report import REPORT_NAME, describe_report

    prepare_images(places, output=output, checkpoint=checkpoint, config=images)
    print(describe_report(output, "samples"))
    print(f"vision shards and {REPORT_NAME} are in {output}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
