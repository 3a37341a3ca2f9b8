"""Text extension from texts to evidence: what its three jobs do, one after another.

    a folder of texts -> texts/{train,held_out} -> shards -> runs/extend/final -> niah/

Some texts are held out. They are the haystack of the needle test and give the loss by position: of
the model as it was, with a raised RoPE base alone, and extended.
"""

import dataclasses
import filecmp
import shutil
from pathlib import Path
from typing import Any

from longva_ray.data.text.pipeline import prepare_text
from longva_ray.evaluate.subjects import Subject
from longva_ray.evaluate.text.run import run_niah
from longva_ray.files.folder import write_once
from longva_ray.lm.gguf import prepare_base
from longva_ray.settings.data import TextDataConfig
from longva_ray.settings.needles import NiahConfig
from longva_ray.settings.training import ExtendConfig
from longva_ray.train.run.launch import train_to_end
from longva_ray.train.stages.text import TextStage

RUN = "extend"


def extend_and_test(
    model: str,
    texts: Path,
    out: Path,
    *,
    hold_out: int,
    text: TextDataConfig,
    extend: ExtendConfig,
    niah: NiahConfig,
    documents: dict[str, Any],
) -> dict[str, Any]:
    """Extend a model on the texts of a folder and test it before and after; returns the report of
    the needle test.

    Args:
        model: folder, Hugging Face id, or GGUF file of a causal language model, or a LongVA
            checkpoint, whose language model is taken.
        texts: folder of .txt files.
        out: folder that every node reaches. A run that was stopped continues there.
        hold_out: one text in this many, in the order of their names, is for the tests only.
        documents: what is written as JSON beside the extended model, by file name.

    Raises ValueError for texts, a model or settings that do not fit, or a run that does not end.
    """
    split_texts(texts, out / "texts", hold_out)
    base = prepare_base(model, out / "base")
    shards = str(out / "shards")
    prepare_text([str(out / "texts" / "train")], output=shards, checkpoint=base, config=text)
    stage = TextStage(extend, base=base, shards=shards)
    stage.check_inputs()
    documents = documents | {"provenance.json": stage.provenance()}
    extended = train_to_end(stage, extend, storage=str(out / "runs"), name=RUN, documents=documents)
    before = Subject(name="before", path=base, dtype=niah.dtype)
    after = Subject(name="after", path=str(extended), dtype=niah.dtype)
    niah = dataclasses.replace(niah, essays=str(out / "texts" / "held_out"))
    return run_niah([before, after], niah, out / "niah")


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
            f"{folder} holds other texts than {source}, or divides them in another way than "
            f"hold_out {hold_out}; give another --out, or delete that folder"
        )
