"""Extend a language model on a folder of texts, and test it before and after on texts it never saw.

    ray job submit --working-dir . -- python jobs/extend_and_test.py --recipe smollm2 \\
        --texts /data/books --out /data/extended

What prepare_text, extend_text and eval_niah do, one behind the other: some texts are held out, the
others trained on; the held-out ones are the haystack of the needle test and give the loss by
position, of the model as it was, with a raised RoPE base alone, and extended. Goes on where it
stopped."""

import dataclasses
import filecmp
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import ray

from longva_ray.config import ExtendConfig, NiahConfig, TextDataConfig
from longva_ray.evaluate.models import Subject
from longva_ray.evaluate.niah_sweep import describe_niah, run_niah
from longva_ray.filesystem import write_once
from longva_ray.options import find_base, local_path, parse, run_job
from longva_ray.train.base_model import prepare_base
from longva_ray.train.launch import train_to_end
from longva_ray.train.text_pipeline import prepare_text
from longva_ray.train.text_stage import TextStage


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
    """Causal language model instead of the recipe's: a folder, a Hugging Face id, or a GGUF
    file."""
    hold_out: int = 4
    """One text in so many, in the order of their names, is for the tests only."""
    text: TextDataConfig
    extend: ExtendConfig
    niah: NiahConfig


def main() -> int:
    options = parse(Options)
    out, texts = local_path(options.out), local_path(options.texts)
    split_texts(texts, out / "texts", options.hold_out)
    base = prepare_base(find_base(options.model, options.recipe), out / "base")
    ray.init(ignore_reinit_error=True)
    extended = extend(options, base, out)
    niah = dataclasses.replace(options.niah, essays=str(out / "texts" / "held_out"))
    before = Subject(name="before", path=base, dtype=niah.dtype)
    after = Subject(name="after", path=str(extended), dtype=niah.dtype)
    print(describe_niah(run_niah([before, after], niah, out / "niah")))
    print(f"report and figures: {out / 'niah'}; the extended model: {extended}")
    return 0


def split_texts(source: Path, folder: Path, hold_out: int) -> None:
    """Copy the .txt files of `source` into `folder`/train and `folder`/held_out, unless they are
    there.

    Raises ValueError when not both get some, or other texts are there.
    """
    files = sorted(source.glob("*.txt"))
    if not 2 <= hold_out <= len(files):
        raise ValueError(
            f"{source} has {len(files)} .txt files, of which one in {hold_out} is held out; "
            "hold_out must be at least 2, and there must be as many files"
        )
    places = {
        Path("train" if number % hold_out else "held_out", file.name): file
        for number, file in enumerate(files, start=1)
    }

    def copy_all(fresh: Path) -> None:
        for place, file in places.items():
            (fresh / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, fresh / place)

    write_once(folder, copy_all)
    there = {file.relative_to(folder) for file in folder.glob("*/*.txt")}
    if there != set(places) or not all(
        filecmp.cmp(folder / place, file, shallow=False) for place, file in places.items()
    ):
        raise ValueError(
            f"{folder} holds other texts, or divides them otherwise, than {source} with "
            f"hold_out {hold_out}; give another --out, or delete that one"
        )


def extend(options: Options, base: str, out: Path) -> Path:
    """Token shards of the texts for training, and the run on them; returns the result's folder."""
    shards = str(out / "shards")
    prepare_text(
        [str(out / "texts" / "train")], output=shards, checkpoint=base, config=options.text
    )
    stage = TextStage(options.extend, base=base, shards=shards)
    stage.check_inputs()
    documents = {"recipe.json": dataclasses.asdict(options), "provenance.json": stage.provenance()}
    return train_to_end(
        stage, options.extend, storage=str(out / "runs"), name="extend", documents=documents
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_job(main)
