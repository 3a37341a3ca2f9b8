"""Turn text into token shards for the text extension.

    ray job submit --working-dir . -- python jobs/prepare_text.py \\
        --recipe longva_7b --texts /data/SlimPajama/train/chunk1 --output /data/tokens-224k

Reads JSON lines (.jsonl, .gz, .zst), Parquet, datasets saved by Hugging Face `datasets`, or folders
of text files. Writes the shards, report.json and report.png to --output. Start it again to continue
where it stopped."""

from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.data.text.files import find_files
from longva_ray.files.places import absolute
from longva_ray.options import find_checkpoint, parse
from longva_ray.settings.data import TextDataConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn text into token shards for the text extension."""

    texts: tuple[str, ...]
    """Files, folders and URIs of text. Their order numbers the documents."""
    output: str = "outputs/tokens"
    """Folder or URI of the token shards."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    text: TextDataConfig


def main(options: Options) -> int:
    texts = [absolute(place) for place in options.texts]
    find_files(texts)
    output = absolute(options.output)
    checkpoint = find_checkpoint(options.text.tokenizer, options.recipe)
    from longva_ray.data.text.pipeline import prepare_text
    from longva_ray.data.text.report import read_report

    prepare_text(texts, output=output, checkpoint=checkpoint, config=options.text)
    print(read_report(output).to_text())
    print(f"token shards, report.json and report.png are in {output}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
