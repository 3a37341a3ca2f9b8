"""Extend a language model on a folder of texts, and test it before and after on texts it never saw.

    ray job submit --working-dir . -- python jobs/extend_and_test.py --recipe smollm2 \\
        --texts /data/books --out /data/extended

Does what prepare_text, extend_text and eval_niah do, one after another, all in the folder --out.
Start it again to continue where it stopped."""

import dataclasses
from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.files.places import local_path
from longva_ray.options import find_base, parse
from longva_ray.settings.data import TextDataConfig
from longva_ray.settings.needles import NiahConfig
from longva_ray.settings.training import ExtendConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Extend a language model on a folder of texts, and test it before and after."""

    texts: str
    """Folder of .txt files."""
    out: str = "outputs/extended"
    """Folder for texts, token shards, runs and results, which every node reaches."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    model: str | None = None
    """Language model instead of the recipe's: a folder, a Hugging Face id, or a GGUF file. Of a
    LongVA checkpoint the language model is taken."""
    hold_out: int = 4
    """One text in this many, in the order of their names, is for the tests only."""
    text: TextDataConfig
    extend: ExtendConfig
    niah: NiahConfig


def main(options: Options) -> int:
    model, texts = find_base(options.model, options.recipe), local_path(options.texts)
    out = local_path(options.out)
    from longva_ray.evaluate.text.report import describe_niah
    from longva_ray.workflows.extend_and_test import RUN, extend_and_test

    report = extend_and_test(
        model,
        texts,
        out,
        hold_out=options.hold_out,
        text=options.text,
        extend=options.extend,
        niah=options.niah,
        documents={"recipe.json": dataclasses.asdict(options)},
    )
    print(describe_niah(report))
    print(f"report and figures: {out / 'niah'}; the extended model: {out / 'runs' / RUN / 'final'}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
