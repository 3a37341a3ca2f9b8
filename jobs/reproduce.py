"""Train the language model of longva-tiny from nothing and test it: every stage by one command.

    python jobs/reproduce.py --out outputs/reproduce

Text, shards, pretraining, extension, needle test. Goes on where it stopped."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from longva_ray.evaluate.models import Subject
from longva_ray.evaluate.niah_sweep import describe_niah, run_niah
from longva_ray.options import absolute, parse, run_job
from longva_ray.tiny.text import write_corpus, write_essays
from longva_ray.tiny.text_stages import PRETRAINED_TOKENS, TEXT_STAGES, niah_config, write_base
from longva_ray.train.launch import train
from longva_ray.train.text_pipeline import prepare_text
from longva_ray.train.text_stage import TextStage


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the language model of longva-tiny from nothing and test it."""

    out: str = "outputs/reproduce"
    """Folder for text, shards, runs, models and results; what is there is not made again."""
    recipe: str = "tiny"
    seed: int = 0
    """Of the text that is written."""


def main() -> int:
    options = parse(Options)
    out = Path(absolute(options.out))
    ray.init(ignore_reinit_error=True)
    model = out / "base"
    write_base(model)
    for number, plan in enumerate(TEXT_STAGES):
        started = time.perf_counter()
        texts, shards = out / "text" / f"{plan.name}.jsonl", str(out / "shards" / plan.name)
        if not texts.exists():
            texts.parent.mkdir(parents=True, exist_ok=True)
            write_corpus(plan.corpus, 100 * options.seed + number, texts)
        prepare_text([str(texts)], output=shards, checkpoint=str(model), config=plan.text)
        stage = TextStage(plan.training, base=str(model), shards=shards)
        documents = {"provenance.json": stage.provenance()}
        runs = str(out / "runs")
        outcome = train(stage, plan.training, storage=runs, name=plan.name, documents=documents)
        if outcome.status != "finished":
            print(f"{plan.name}: {outcome.status} after step {outcome.step}. {outcome.message}")
            return 1
        model = out / "runs" / plan.name / "final"
        print(f"{plan.name}: {time.perf_counter() - started:.0f} s, weights in {model}")
    essays = out / "essays"
    if not essays.exists():
        write_essays(essays, 100 * options.seed + 99, num_essays=4, num_sentences=200)
    subjects = [
        Subject(
            name=name,
            path=str(out / "runs" / run / "final"),
            dtype="float32",
            training_length=length,
        )
        for name, run, length in (
            ("before", "pretrain", PRETRAINED_TOKENS),
            ("after", "extend", TEXT_STAGES[-1].sequence_length),
        )
    ]
    print(describe_niah(run_niah(subjects, niah_config(essays), out / "niah")))
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_job(main)
